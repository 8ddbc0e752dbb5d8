"""The reference as a backend: slow and plain, on any device. For comparing with."""

import torch
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec, attend_reference, write_reference


class ReferenceAttention(Attention):
    """Attention as it is defined, over pools of [num_blocks, block_size, heads, head_dim]."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32, torch.bfloat16, torch.float16})
    cache_dtypes = frozenset({torch.bfloat16})
    relative = True

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, block_size, num_kv_heads, head_dim

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        self.write(k, v, k_cache, v_cache, batch.slots, batch.block_size)
        return self.attend(q, k_cache, v_cache, batch)

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, block_size: int) -> None:
        for cache, values in ((k_cache, k), (v_cache, v)):
            write_reference(cache, values, slots)

    def attend(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
        return attend_reference(self.spec, q, k_cache, v_cache, batch)
