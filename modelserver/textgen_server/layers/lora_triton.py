"""Adapters of all rows of a step in two launches, where layers/lora.py needs five for each adapter. Needs Triton."""

import torch
import triton
from torch import Tensor

from textgen_server.layers import lora_kernels as kernels

FEW_ROWS = 64
"""A program computes a row: prompts, of more, are for matrix products."""

_TILE = 8192  # numbers of a weight that a program has at once


def add(out: Tensor, x: Tensor, table: Tensor, largest_rank: int, rows: Tensor, adapters: Tensor) -> None:
    """out [T, width] += b a x in the rows `rows` [n] int64 of x [T, size], by adapters [n] int64 of lora_kernels'
    `table`, whose ranks are `largest_rank` at most. x and out are contiguous."""
    count, (size, width) = len(rows), (x.shape[1], out.shape[1])
    rank = max(16, triton.next_power_of_2(largest_rank))
    tile = max(16, _TILE // rank)
    shrunk = torch.empty(count, rank, dtype=torch.float32, device=x.device)
    kernels.shrink[(count,)](x, table, rows, adapters, shrunk, size, RANK=rank, INPUTS=tile)
    columns = (count, triton.cdiv(width, tile))
    kernels.expand[columns](shrunk, table, rows, adapters, out, width, RANK=rank, OUTPUTS=tile)
