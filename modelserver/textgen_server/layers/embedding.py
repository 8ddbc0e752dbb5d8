"""Token embedding and output head, cut over the ranks by rows of the vocabulary."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.layers.linear import dense
from textgen_server.layers.partition import partition
from textgen_server.parallel import Group
from textgen_server.weights.loader import Loader, Part


class VocabParallelEmbedding(nn.Module):
    """ids [T] -> vectors [T, hidden]. On one rank of the CPU the table stays a view of the mapped file."""

    def __init__(self, loader: Loader, name: str, vocab_size: int, group: Group) -> None:
        super().__init__()
        self.group = group
        self.start, self.length = partition(vocab_size, group)
        self.weight = loader.tensor([Part(name, 0, self.start, self.length)])

    def forward(self, ids: Tensor) -> Tensor:
        if self.group.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.start
        absent = (local < 0) | (local >= self.length)
        vectors = F.embedding(local.masked_fill(absent, 0), self.weight)
        return self.group.all_reduce(vectors.masked_fill(absent[:, None], 0))


class OutputHead(nn.Module):
    """hidden [N, hidden] -> logits [N, vocab], the same on every rank."""

    def __init__(
        self, loader: Loader, name: str, vocab_size: int, group: Group, apply: Callable[[Tensor], nn.Module] = dense
    ) -> None:
        """`apply` makes a linear layer of a matrix."""
        super().__init__()
        self.group = group
        self.vocab_size = vocab_size
        start, length = partition(vocab_size, group)
        weight = loader.tensor([Part(name, 0, start, length)])
        longest = -(-vocab_size // group.size)
        # Gathering needs equal shares: the shorter ones get a row of zeros, cut off again in `forward`.
        self.padding = longest - length
        self.linear = apply(F.pad(weight, (0, 0, 0, self.padding)) if self.padding else weight)
        self.lengths = [partition(vocab_size, Group(rank, group.size))[1] for rank in range(group.size)]

    def forward(self, hidden: Tensor) -> Tensor:
        local: Tensor = self.linear(hidden)
        if self.group.size == 1:
            return local
        shares = self.group.all_gather(local).chunk(self.group.size, dim=-1)
        return torch.cat([share[:, :length] for share, length in zip(shares, self.lengths, strict=True)], dim=-1)
