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
from textgen_server.quantization.splits import split

# Up to that many rows the product dequantizes tiles as it goes; beyond, writing out the matrix once costs less.
FEW_ROWS = 32
_INPUTS, _OUTPUTS = 64, 64


class DequantizingTiles(ScaledLinear):
    """x [..., in] -> x W^T [..., out]."""

    def __init__(self, block: Scaled) -> None:
        super().__init__(block)
        self.is_float = block.codes.dtype == torch.float8_e4m3fn
        self.bits = block.codes.view(torch.int8)

    def product(self, x: Tensor) -> Tensor:
        if len(x) > FEW_ROWS:
            return x @ self.dequantized(x.dtype).t()
        block = self.block
        columns = triton.cdiv(self.out, _OUTPUTS)
        steps, splits = split(triton.cdiv(self.size, _INPUTS), columns, x.device)
        partial = torch.empty(splits, len(x), self.out, dtype=torch.float32, device=x.device)
        kernels.multiply_scaled[(columns, splits)](
            x.contiguous(),
            self.bits,
            block.scales,
            partial,
            len(x),
            self.size,
            self.out,
            block.scales.shape[1],
            block.group_size,
            block.first,
            FLOAT=self.is_float,
            ROWS=max(16, triton.next_power_of_2(len(x))),
            INPUTS=_INPUTS,
            OUTPUTS=_OUTPUTS,
            STEPS=steps,
        )
        return (partial[0] if splits == 1 else partial.sum(0)).to(x.dtype)

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
