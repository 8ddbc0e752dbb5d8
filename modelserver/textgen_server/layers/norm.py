"""Normalisation layers."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.layers import fused
from textgen_server.native.ops import add_and_rms_norm, fit

Stream = tuple[Tensor, Tensor | None]
"""What goes from layer to layer: hidden states x [T, hidden], and what is still to be added to them, or None. The next
norm adds it: with a kernel that does both, x is read once."""


class Norm(nn.Module):
    """Base: [..., width] to the same."""

    def after(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """(the sum of the two, its norm)."""
        x, added = stream
        x = x if added is None else x + added
        return x, self(x)


class RMSNorm(Norm):
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019), computed in float32.

    Attributes:
        rounds_first: x / rms(x) is rounded to the type of x before it meets the weight, as transformers has it.
    """

    rounds_first: ClassVar[bool] = True

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def after(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """See Norm."""
        x, added = stream
        if fit(x, self.weight):
            return add_and_rms_norm(x, added, self.weight, self.eps)
        if added is None or not fused.fit(x, added):
            return super().after(stream)
        return fused.add_and_rms_norm(x, added, self.weight, self.eps, self.rounds_first)

    def forward(self, x: Tensor) -> Tensor:
        if fused.fit(x):
            return fused.rms_norm(x, self.weight, self.eps, self.rounds_first)
        return self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        if fit(x, self.weight):
            return add_and_rms_norm(x, None, self.weight, self.eps)[1]
        if x.dtype == torch.float32:
            return torch.rms_norm(x, self.weight.shape, self.weight, self.eps)
        normed = torch.rms_norm(x.float(), self.weight.shape, None, self.eps)
        return normed.to(x.dtype) * self.weight


class OffsetRMSNorm(RMSNorm):
    """x / rms(x) * (1 + offset), in float32 to the end: Gemma's."""

    rounds_first = False

    def __init__(self, offset: Tensor, eps: float) -> None:
        super().__init__(1 + offset.float(), eps)

    def _plain(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


class HeadNorm(nn.Module):
    """A norm for each head of queries and keys by itself, [T, heads, head_dim] to the same.

    Queries share one weight and keys another, so `query` and `key` are norms of the same kind over head_dim.
    """

    def __init__(self, query: nn.Module, key: nn.Module, num_queries: int) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.num_queries = num_queries

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.query(x[:, : self.num_queries]), self.key(x[:, self.num_queries :])], dim=1)


class LayerNorm(Norm):
    """(x - mean) / deviation * weight + bias over the last dimension (Ba et al. 2016); the bias may be absent."""

    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
