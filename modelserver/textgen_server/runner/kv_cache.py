"""The pools of KV blocks on one rank: how many fit, and the tensors themselves."""

from dataclasses import dataclass

import torch

from textgen_server.attention.base import Attention
from textgen_server.models.base import CacheSpec, LayerCache


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
        values = self.block_size * self.spec.num_kv_heads * self.spec.head_dim
        return 2 * self.spec.num_layers * values * self.dtype.itemsize

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        """Zeroed pools of `num_blocks` blocks for every layer."""
        shape = self.backend.cache_shape(num_blocks, self.block_size, self.spec.num_kv_heads, self.spec.head_dim)

        def pool() -> torch.Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=device)

        return [LayerCache(pool(), pool()) for _ in range(self.spec.num_layers)]
