"""Weights in small whole numbers that share a scale and a zero by groups of input features, as GPTQ, AWQ and
compressed-tensors store them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grouped:
    """A matrix [in, out] whose entry (k, n) is (codes[k, n] - zeros[g, n]) * scales[g, n] with g = groups[k].

    Attributes:
        codes: uint8 [in, out].
        scales: [G, out], in the checkpoint's type.
        zeros: [G, out], uint8.
        groups: int64 [in], numbers below G.
        bits: width of a code.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor
    bits: int

    def dequantized(self) -> Tensor:
        """The matrix the other way round, as layers want it: float32 [out, in]."""
        weight = self.codes.t().contiguous().float()
        zeros, scales = self.zeros.t().float(), self.scales.t().float()
        size = self.group_size
        if size and weight.shape[1] % size == 0:  # five times as fast as looking up each feature's group
            grouped = weight.view(len(weight), -1, size)
            grouped -= zeros[:, : grouped.shape[1], None]
            grouped *= scales[:, : grouped.shape[1], None]
        else:
            weight -= zeros[:, self.groups]
            weight *= scales[:, self.groups]
        return weight

    @cached_property
    def group_size(self) -> int:
        """The number g with groups[k] = k // g for every k; 0 where there is none."""
        later = self.groups.ne(0).nonzero()
        size = int(later[0]) if len(later) else len(self.groups)
        in_order = torch.arange(len(self.groups), device=self.groups.device) // max(size, 1)
        return size if torch.equal(self.groups, in_order) else 0

    def compact(self) -> "Grouped":
        """The same without groups that none of its input features is in: a rank's rows are often in few of them."""
        used, groups = self.groups.unique(return_inverse=True)
        return Grouped(self.codes, self.scales[used], self.zeros[used], groups, self.bits)


def joined(blocks: Sequence[Grouped]) -> list[Grouped]:
    """Neighbours whose input features are in the same groups as one block. Act-order may make others differ."""
    together: list[list[Grouped]] = []
    for block in blocks:
        if together and _alike(together[-1][0], block):
            together[-1].append(block)
        else:
            together.append([block])
    return [
        Grouped(
            torch.cat([block.codes for block in alike], dim=1),
            torch.cat([block.scales for block in alike], dim=1),
            torch.cat([block.zeros for block in alike], dim=1),
            alike[0].groups,
            alike[0].bits,
        )
        for alike in together
    ]


def _alike(one: Grouped, other: Grouped) -> bool:
    return one.bits == other.bits and torch.equal(one.groups, other.groups)
