"""Layers that hold the matrices of a packed checkpoint in a packed form. Chosen by runner/quantization.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textgen_server.native.ops import PackedLinear
from textgen_server.quantization.base import Quantization
from textgen_server.quantization.unpacked import Block, Unpacked
from textgen_server.weights.loader import Loader, Part

Holder = Callable[[Sequence[Any], torch.device, torch.dtype], list[nn.Module]]
"""(blocks of one kind, device, dtype of x) -> layers without biases whose outputs, one behind the other, are those of
the blocks."""


class KeepPacked(Quantization):
    """The quantization method that has `holders` make layers of the kinds of blocks that it has one for, and leaves
    all else to `plain`."""

    def __init__(self, plain: Quantization, holders: Mapping[type[Block], Holder]) -> None:
        self.plain = plain
        self.holders = holders

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        checkpoint = loader.checkpoint
        if not isinstance(checkpoint, Unpacked):
            return self.plain.linear(loader, parts, bias)
        kinds = {checkpoint.kind(part.name) for part in parts}
        kind = kinds.pop()
        if kinds or kind is None or kind not in self.holders:
            return self.plain.linear(loader, parts, bias)
        layers = self.holders[kind]([checkpoint.block(part) for part in parts], loader.device, loader.dtype)
        if loader.transfer is not None:
            loader.transfer.add(sum(loader.stored_bytes(part) for part in parts))
        return side_by_side(layers, bias)


def side_by_side(layers: Sequence[nn.Module], bias: Tensor | None) -> nn.Module:
    """x [..., in] -> the outputs of all layers, one behind the other, plus b [out]."""
    if len(layers) > 1:
        return SideBySide(layers, bias)
    if bias is None:
        return layers[0]
    return layers[0].plus(bias) if isinstance(layers[0], PackedLinear) else SideBySide(layers, bias)


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
