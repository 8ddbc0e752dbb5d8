"""Linear layers that keep grouped weights packed on a GPU. On the CPU, grouped weights are dequantized as they load.

Chosen by runner/quantization.py. Needs Triton.
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
from torch import Tensor, nn

from textgen_server.quantization import grouped_kernels as kernels
from textgen_server.quantization.base import Quantization
from textgen_server.quantization.grouped import Grouped, Unpacked
from textgen_server.quantization.packing import pack
from textgen_server.weights.loader import Loader, Part

# Up to that many rows the product dequantizes tiles as it goes; beyond, writing out the matrix once costs less.
FEW_ROWS = 32
_INPUTS, _OUTPUTS = 64, 64
_MAX_SPLITS = 16
# Programs for each of the device's multiprocessors, from which on further splits bring nothing.
_WAVES = 2


class KeepPacked:
    """The quantization method that holds packed matrices as `GroupedLinear`, and leaves others to `plain`."""

    def __init__(self, plain: Quantization) -> None:
        self.plain = plain

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        checkpoint = loader.checkpoint
        if not isinstance(checkpoint, Unpacked) or any(checkpoint.prefix(part.name) is None for part in parts):
            return self.plain.linear(loader, parts, bias)
        blocks = [checkpoint.block(part) for part in parts]
        if loader.transfer is not None:
            # As many as Unpacked shows and runner/load.py expects: those of float32.
            loader.transfer.add(4 * sum(block.codes.numel() for block in blocks))
        layers = [
            GroupedLinear(block, checkpoint.packing.bits, loader.device, loader.dtype) for block in joined(blocks)
        ]
        return SideBySide(layers, bias)


def joined(blocks: Sequence[Grouped]) -> list[Grouped]:
    """Neighbours whose input features are in the same groups as one block. Act-order may make others differ."""
    together: list[list[Grouped]] = []
    for block in blocks:
        if together and torch.equal(together[-1][0].groups, block.groups):
            together[-1].append(block)
        else:
            together.append([block])
    return [
        Grouped(
            torch.cat([block.codes for block in alike], dim=1),
            torch.cat([block.scales for block in alike], dim=1),
            torch.cat([block.zeros for block in alike], dim=1),
            alike[0].groups,
        )
        for alike in together
    ]


class SideBySide(nn.Module):
    """x [..., in] -> the outputs of all layers, one behind the other, plus b [out]."""

    def __init__(self, layers: Sequence[nn.Module], bias: Tensor | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        outs = [layer(x) for layer in self.layers]
        out: Tensor = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
        return out if self.bias is None else out + self.bias


class GroupedLinear(nn.Module):
    """x [..., in] -> x W [..., out], with W [in, out] packed.

    Args:
        bits: width of the codes in the checkpoint. Codes of 3 bits are held in 4, so that none crosses a word.
        dtype: of the weights once they are dequantized, and of x.
    """

    def __init__(self, block: Grouped, bits: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.out = block.codes.shape
        self.dtype = dtype
        self.bits = 4 if bits == 3 else bits
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
        wanted = _WAVES * _processors(x.device) // columns
        steps = triton.cdiv(tiles, max(1, min(tiles, wanted, _MAX_SPLITS)))
        splits = triton.cdiv(tiles, steps)
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


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the device; in Triton's interpreter, which has none, a number that leads to splits."""
    if device.type != "cuda":
        return 32
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
