"""How grouped codes lie in words for grouped_kernels.py, which says why."""

from dataclasses import dataclass

import torch
from torch import Tensor

from textgen_server.quantization.grouped import Grouped

SLICE = 16
"""Input features that share a group, and rows of words in a tile."""


@dataclass(frozen=True)
class Tiles:
    """Codes of one matrix, on the CPU.

    Attributes:
        words: int32 [SLICE * tiles, out].
        bits: width of a code, 2, 4 or 8: codes of 3 bits are held in 4, so that none crosses a word.
        groups: int32 [slices].
        group_tiles: see grouped_kernels.py.
        order: int32 [features in tiles], or None where those of the matrix are in order.
        even: tiles have no places without a feature.
    """

    words: Tensor
    bits: int
    groups: Tensor
    group_tiles: int
    order: Tensor | None
    even: bool

    @property
    def count(self) -> int:
        return len(self.words) // SLICE

    @classmethod
    def of(cls, block: Grouped) -> "Tiles":
        bits = 4 if block.bits == 3 else block.bits
        slices = 32 // bits
        order = _order(block.groups)
        features = torch.arange(len(block.groups)) if order is None else order
        missing = -len(features) % (slices * SLICE)
        features = torch.cat([features, features.new_full((missing,), -1)])
        firsts = features[::SLICE]
        groups = block.groups[firsts.clamp(min=0)]
        groups[firsts < 0] = groups[firsts >= 0][-1]  # slices that only fill the last tile
        codes = block.codes[features.clamp(min=0)].view(-1, slices, SLICE, block.codes.shape[1])
        words = torch.zeros(codes[:, 0].shape, dtype=torch.int32)
        for index in range(slices):
            words |= codes[:, index].int() << bits * index
        group_tiles = _group_tiles(groups.view(-1, slices))
        own_order, even = None if order is None else features.int(), bool((features >= 0).all())
        return cls(words.flatten(0, 1), bits, groups.int(), group_tiles, own_order, even)


def _order(groups: Tensor) -> Tensor | None:
    """The features group by group, each filled up with -1 to whole slices; None where slices share groups as they are:
    act-order and a rank's share may have them lie otherwise."""
    firsts = groups[::SLICE].repeat_interleave(SLICE)[: len(groups)]
    if torch.equal(firsts, groups):
        return None
    counts = torch.bincount(groups)
    lengths = -(-counts // SLICE) * SLICE
    sorted_features = groups.argsort(stable=True)
    own = groups[sorted_features]
    starts, padded_starts = (sizes.cumsum(0) - sizes for sizes in (counts, lengths))
    places = torch.arange(len(groups)) - starts[own] + padded_starts[own]
    order = torch.full((int(lengths.sum()),), -1, dtype=torch.int64)
    order[places] = sorted_features
    return order


def _group_tiles(groups: Tensor) -> int:
    """How many tiles in turn share a group, from groups [tiles, slices]; 0 where that is no number of tiles."""
    first = groups[:, 0]
    if not torch.equal(groups, first[:, None].expand_as(groups)):
        return 0
    later = first.ne(0).nonzero()
    size = int(later[0]) if len(later) else len(first)
    return size if torch.equal(first, torch.arange(len(first)) // max(size, 1)) else 0
