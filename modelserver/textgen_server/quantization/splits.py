"""Products of few rows on a GPU, shared out to its programs by output features, and by input features where those are
too few to keep it busy. Needs Triton."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

_MAX_SPLITS = 16
# Programs for each of the device's multiprocessors, from which on further splits bring nothing.
_WAVES = 4
_MOST_COLUMNS = 1 << 16


def multiply(
    kernel: Any,
    x: Tensor,
    arguments: tuple[Any, ...],
    width: int,
    tiles: int,
    arrivals: Tensor,
    constants: Mapping[str, Any],
    bias: Tensor | None = None,
) -> Tensor:
    """Launch `kernel`, which ends with split_kernels.finish, for x [rows, in]: the product [rows, width].

    Args:
        arguments: what the kernel takes behind x, what `finish` does, and `steps`, the tiles of a split.
        tiles: of input features; `constants` has the OUTPUTS of a program.
        arrivals: of the device.
    """
    rows = len(x)
    columns = triton.cdiv(width, constants["OUTPUTS"])
    steps, splits = split(tiles, columns, x.device)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    partial = torch.empty(splits, rows, width, dtype=torch.float32, device=x.device) if splits > 1 else out
    kernel[(columns, splits)](
        x,
        partial,
        arrivals,
        out,
        out if bias is None else bias,
        rows,
        width,
        steps,
        *arguments,
        HAS_BIAS=bias is not None,
        SPLITS=splits > 1,
        ROWS=max(16, triton.next_power_of_2(rows)),
        **constants,
    )
    return out


def split(tiles: int, columns: int, device: torch.device) -> tuple[int, int]:
    """(tiles of each split, splits) of `tiles` tiles of input features, with `columns` tiles of output features."""
    wanted = _WAVES * processors(device) // columns
    steps = -(-tiles // max(1, min(tiles, wanted, _MAX_SPLITS)))
    return steps, -(-tiles // steps)


@cache
def arrivals(device: torch.device) -> Tensor:
    """The zeros by which programs of one launch tell who comes last. All layers share them, one after the other; get
    them as layers are made, for a captured graph cannot."""
    return torch.zeros(_MOST_COLUMNS, dtype=torch.int32, device=device)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the device; in Triton's interpreter, which has none, a number that leads to splits."""
    if device.type != "cuda":
        return 32
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
