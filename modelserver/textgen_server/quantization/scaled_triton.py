"""Products with weights of 8 bits that are dequantized as they are multiplied, for GPUs. Chosen by scaled_linear.py;
needs Triton.

Activations are not rounded, whatever the checkpoint asks for: that only ever serves products in 8 bits, and these are
none.
"""

import torch
import triton
from torch import Tensor

from textgen_server.quantization import scaled_kernels as kernels
from textgen_server.quantization.scaled import Scaled
from textgen_server.quantization.scaled_linear import ScaledLinear
from textgen_server.quantization.splits import arrivals, multiply

# Up to that many rows the product dequantizes tiles as it goes; beyond, writing out the matrix once costs less.
FEW_ROWS = 32
# A tile: 128 codes are a whole line of memory, and a usual size of groups.
_INPUTS, _OUTPUTS = 128, 64
_STAGES = 4


class DequantizingTiles(ScaledLinear):
    """x [..., in] -> x W^T [..., out]."""

    def __init__(self, block: Scaled) -> None:
        super().__init__(block)
        self.is_float = block.codes.dtype == torch.float8_e4m3fn
        self.bits = block.codes.view(torch.int8)
        by_rows = block.scales.shape[1] == 1
        self.by_tile = by_rows or (block.group_size % _INPUTS == 0 and block.first % _INPUTS == 0)
        self.arrivals = arrivals(block.codes.device)

    def product(self, x: Tensor) -> Tensor:
        if len(x) > FEW_ROWS:
            return x @ self.dequantized(x.dtype).t()
        block = self.block
        arguments = (self.bits, block.scales, self.size, block.scales.shape[1], block.group_size, block.first)
        how = {
            "FLOAT": self.is_float, "BY_TILE": self.by_tile, "INPUTS": _INPUTS, "OUTPUTS": _OUTPUTS,
            "STAGES": _STAGES if self.by_tile else 2,  # scales of their own for all numbers take room
        }  # fmt: skip
        tiles = triton.cdiv(self.size, _INPUTS)
        return multiply(kernels.multiply_scaled, x.contiguous(), arguments, self.out, tiles, self.arrivals, how)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """W [out, in]."""
        block = self.block
        weight = torch.empty(self.out, self.size, dtype=dtype, device=self.bits.device)
        kernels.dequantize_scaled[(triton.cdiv(self.out, _OUTPUTS), triton.cdiv(self.size, _INPUTS))](
            self.bits,
            block.scales,
            weight,
            self.size,
            self.out,
            block.scales.shape[1],
            block.group_size,
            block.first,
            FLOAT=self.is_float,
            INPUTS=_INPUTS,
            OUTPUTS=_OUTPUTS,
        )
        return weight
