"""The pools of KV blocks on one rank: how many fit, and the tensors themselves."""

import math
from dataclasses import dataclass

import torch

from textgen_server.attention.base import Attention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.native.memory import zeros


@dataclass(frozen=True)
class CacheLayout:
    """How a rank keeps keys and values."""

    spec: CacheSpec
    block_size: int
    dtype: torch.dtype
    backend: type[Attention]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values."""
        return 2 * self.spec.num_layers * math.prod(self._shape(1)) * self.dtype.itemsize

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        """Zeroed pools of `num_blocks` blocks for every layer."""
        shape = self._shape(num_blocks)

        def pool() -> torch.Tensor:
            if device.type == "cpu":
                return zeros(shape, self.dtype)
            return torch.zeros(shape, dtype=self.dtype, device=device)

        return [LayerCache(pool(), pool()) for _ in range(self.spec.num_layers)]

    def _shape(self, num_blocks: int) -> tuple[int, ...]:
        spec = self.spec
        return self.backend.pool_shape(num_blocks, self.block_size, spec.num_kv_heads, spec.head_dim, self.dtype)
