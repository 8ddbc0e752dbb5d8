"""Linear layers that keep grouped weights packed on a GPU, for keep_packed.py.

Chosen by runner/quantization.py. Needs Triton.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor, nn

from textgen_server.quantization import grouped_kernels as kernels
from textgen_server.quantization.grouped import Grouped, joined
from textgen_server.quantization.packing import pack
from textgen_server.quantization.splits import split

# Up to that many rows the product dequantizes tiles as it goes; beyond, writing out the matrix once costs less.
FEW_ROWS = 32
_INPUTS, _OUTPUTS = 64, 64


def grouped_layers(blocks: Sequence[Grouped], device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Layers that hold the blocks on `device`, as few as can be. See keep_packed.Holder."""
    return [GroupedLinear(block, device, dtype) for block in joined(blocks)]


class GroupedLinear(nn.Module):
    """x [..., in] -> x W [..., out], with W [in, out] packed.

    Args:
        block: W. Codes of 3 bits are held in 4, so that none crosses a word.
        dtype: of the weights once they are dequantized, and of x.
    """

    def __init__(self, block: Grouped, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.out = block.codes.shape
        self.dtype = dtype
        self.bits = 4 if block.bits == 3 else block.bits
        self.codes = pack(block.codes, self.bits).to(device)
        self.scales = block.scales.contiguous().to(device)
        self.zeros = block.zeros.contiguous().to(device)
        self.group_size = block.group_size
        self.groups = block.groups.int().to(device)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.size).contiguous()
        out = self._multiplied(flat) if len(flat) <= FEW_ROWS else flat @ self.dequantized()
        return out.view(*x.shape[:-1], self.out)

    def dequantized(self) -> Tensor:
        """W."""
        weight = torch.empty(self.size, self.out, dtype=self.dtype, device=self.codes.device)
        kernels.dequantize[(triton.cdiv(self.size, _INPUTS), triton.cdiv(self.out, _OUTPUTS))](
            self.codes,
            self.scales,
            self.zeros,
            self.groups,
            weight,
            self.size,
            self.out,
            BITS=self.bits,
            GROUP_SIZE=self.group_size,
            INPUTS=_INPUTS,
            OUTPUTS=_OUTPUTS,
        )
        return weight

    def _multiplied(self, x: Tensor) -> Tensor:
        tiles, columns = triton.cdiv(self.size, _INPUTS), triton.cdiv(self.out, _OUTPUTS)
        steps, splits = split(tiles, columns, x.device)
        partial = torch.empty(splits, len(x), self.out, dtype=torch.float32, device=x.device)
        kernels.multiply[(columns, splits)](
            x,
            self.codes,
            self.scales,
            self.zeros,
            self.groups,
            partial,
            len(x),
            self.size,
            self.out,
            BITS=self.bits,
            GROUP_SIZE=self.group_size,
            ROWS=max(16, triton.next_power_of_2(len(x))),
            INPUTS=_INPUTS,
            OUTPUTS=_OUTPUTS,
            STEPS=steps,
        )
        return (partial[0] if splits == 1 else partial.sum(0)).to(x.dtype)
