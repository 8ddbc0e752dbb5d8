"""Linear layers that keep grouped weights packed on a GPU, for keep_packed.py.

Chosen by runner/quantization.py. Needs Triton.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor, nn

from textgen_server.quantization import grouped_kernels as kernels
from textgen_server.quantization.grouped import Grouped, joined
from textgen_server.quantization.grouped_tiles import Tiles
from textgen_server.quantization.splits import arrivals, multiply, processors

# Up to that many rows the product dequantizes tiles as it goes; beyond, writing out the matrix once costs less.
FEW_ROWS = 32
# Columns of a program: the more, the less each word costs, but a matrix must have work for all programs.
_NARROW, _WIDE = 64, 128
_TILES_FOR_WIDE = 16  # for each multiprocessor
_STAGES = 4


def grouped_layers(blocks: Sequence[Grouped], device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Layers that hold the blocks on `device`, as few as can be. See keep_packed.Holder."""
    return [GroupedLinear(block, device, dtype) for block in joined(blocks)]


class GroupedLinear(nn.Module):
    """x [..., in] -> x W [..., out], with W [in, out] packed.

    Args:
        block: W.
        dtype: of the weights once they are dequantized, and of x.
    """

    def __init__(self, block: Grouped, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.out = block.codes.shape
        self.dtype = dtype
        tiles = Tiles.of(block)
        self.tiles = tiles.count
        self.codes = tiles.words.to(device)
        self.scales = block.scales.contiguous().to(device)
        self.zeros = block.zeros.contiguous().to(device)
        self.groups = tiles.groups.to(device)
        self.order = None if tiles.order is None else tiles.order.to(device)
        self.how: dict[str, Any] = {
            "BITS": tiles.bits, "GROUP_TILES": tiles.group_tiles, "ORDERED": self.order is not None,
            "OUTPUTS": _outputs(self.tiles, self.out, device),
        }  # fmt: skip
        self.even = tiles.even
        self.arrivals = arrivals(device)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.size).contiguous()
        out = self._multiplied(flat) if len(flat) <= FEW_ROWS else flat @ self.dequantized()
        return out.view(*x.shape[:-1], self.out)

    def dequantized(self) -> Tensor:
        """W."""
        weight = torch.empty(self.size, self.out, dtype=self.dtype, device=self.codes.device)
        kernels.dequantize[(self.tiles, triton.cdiv(self.out, self.how["OUTPUTS"]))](
            *self._packed, weight, self.size, self.out, **self.how
        )
        return weight

    def _multiplied(self, x: Tensor) -> Tensor:
        arguments = (*self._packed, self.size, self.tiles)
        how = {**self.how, "EVEN": self.even, "STAGES": _STAGES}
        return multiply(kernels.multiply, x, arguments, self.out, self.tiles, self.arrivals, how)

    @property
    def _packed(self) -> tuple[Tensor, ...]:
        return self.codes, self.scales, self.zeros, self.groups, self.groups if self.order is None else self.order


def _outputs(tiles: int, out: int, device: torch.device) -> int:
    return _WIDE if tiles * (out // _WIDE) >= _TILES_FOR_WIDE * processors(device) else _NARROW
