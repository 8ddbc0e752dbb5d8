"""Attention by the flash-attn library, version 2.6 or later. Chosen by attention/select.py where it is installed.

Pools are [num_blocks, block_size, num_kv_heads, head_dim], the library's paged layout; its blocks hold a multiple of
256 tokens. Decodes go to `flash_attn_with_kvcache`, which splits their keys over the GPU; prompts to
`flash_attn_varlen_func`. Both align the causal mask to the newest key.
"""

from typing import Any

import torch
import torch.nn.functional as F
from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec

_MAX_HEAD_DIM = 256


class FlashAttention(Attention):
    """flash-attn's paged kernels (Dao 2023)."""

    preferred_block_size = 256
    block_size_multiple = 256
    dtypes = frozenset({torch.float16, torch.bfloat16})

    def __init__(self, spec: AttentionSpec) -> None:
        self._options: dict[str, Any] = {
            "softmax_scale": spec.scale,
            "causal": True,
            # The library counts the keys before the query's own.
            "window_size": (-1, -1) if spec.window is None else (spec.window - 1, 0),
            "softcap": spec.softcap or 0.0,
            "alibi_slopes": None if spec.alibi_slopes is None else spec.alibi_slopes.float(),
        }

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, block_size, num_kv_heads, head_dim

    @staticmethod
    def obstacle(head_dim: int) -> str | None:
        if head_dim <= _MAX_HEAD_DIM and head_dim % 8 == 0:
            return None
        return f"takes heads of up to {_MAX_HEAD_DIM} features in multiples of 8, and this model's have {head_dim}"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        for cache, values in ((k_cache, k), (v_cache, v)):
            cache.view(-1, *cache.shape[2:]).index_copy_(0, batch.slots, values)
        decodes, prompts = batch.num_decodes, len(batch.query_lens) - batch.num_decodes
        parts: list[Tensor] = []
        if decodes:
            attended = flash_attn_with_kvcache(
                q[:decodes, None],
                k_cache,
                v_cache,
                cache_seqlens=batch.context_lens[:decodes],
                block_table=batch.block_tables[:decodes],
                **self._options,
            )
            parts.append(attended[:, 0])
        if prompts:
            query_start, key_start = batch.plan(_prompt_starts)
            attended = flash_attn_varlen_func(
                q[decodes:],
                k_cache,
                v_cache,
                cu_seqlens_q=query_start,
                cu_seqlens_k=key_start,
                max_seqlen_q=max(batch.query_lens[decodes:]),
                max_seqlen_k=max(batch.host_context_lens[decodes:]),
                block_table=batch.block_tables[decodes:],
                **self._options,
            )
            parts.append(attended)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _prompt_starts(batch: AttentionBatch) -> tuple[Tensor, Tensor]:
    """[prompts + 1] int32 each: where each prompt's queries, and its keys if they lay end to end, start."""
    contexts = batch.context_lens[batch.num_decodes :]
    key_start = F.pad(contexts.cumsum(0, dtype=torch.int32), (1, 0))
    return batch.query_start[batch.num_decodes :] - batch.num_decodes, key_start
