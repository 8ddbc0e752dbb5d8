"""What the runner asks of a model family."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from textgen_server.attention.base import AttentionBatch
from textgen_server.layers.build import Builder
from textgen_server.models.config import ModelConfig


@dataclass(frozen=True)
class LayerCache:
    """The key and value pools of one layer, in the attention backend's shape."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class CacheSpec:
    """What the KV cache of a rank must hold; `num_layers` are those that have keys and values."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @property
    def numbers(self) -> int:
        """In the keys and values of one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


class CausalModel(Protocol):
    """A decoder on one rank. A module in it whose work no CUDA graph can replay (runner/graphs.py) says `capturable =
    False`."""

    def __init__(self, config: ModelConfig, build: Builder) -> None: ...

    @property
    def cache_spec(self) -> CacheSpec: ...

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        """Hidden states [T, hidden] after the last norm, for tokens [T] at positions [T]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, vocab] of hidden states [N, hidden]."""
        ...
