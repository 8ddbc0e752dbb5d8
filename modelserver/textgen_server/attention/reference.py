"""The reference as a backend: slow and plain, on any device. For comparing with, and for models that bring their own
attention (models/t5.py) and only need pools in a layout that torch's operators can index."""

import torch
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec, attend_reference, write_reference


class ReferenceAttention(Attention):
    """Attention as it is defined, over pools of [num_blocks, block_size, heads, head_dim]."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32, torch.bfloat16, torch.float16})

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, block_size, num_kv_heads, head_dim

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        for cache, values in ((k_cache, k), (v_cache, v)):
            write_reference(cache, values, batch.slots)
        return attend_reference(self.spec, q, k_cache, v_cache, batch)
