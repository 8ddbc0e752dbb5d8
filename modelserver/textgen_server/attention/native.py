"""Attention on the CPU by the kernels of native/, which read keys and values in the blocks where they lie."""

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.native.library import kernels, use


class AttentionCall(ctypes.Structure):
    """Mirrors TextgenAttention of native/attention.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("queries", "keys", "values")),
        *((name, c_int64) for name in ("query_stride", "key_stride", "value_stride")),
        *((name, c_void_p) for name in ("out", "key_pool", "value_pool")),
        *((name, c_void_p) for name in ("starts", "contexts", "tables", "slots", "slopes")),
        *((name, c_int64) for name in ("tokens", "sequences", "table_width")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "block_size", "padded_block", "window")),
        ("scale", c_float),
        ("softcap", c_float),
    )


class NativeAttention(Attention):
    """The pools are [num_blocks, kv_heads, padded tokens, head_dim], the tokens of a block padded to whole vectors; the
    key pool has its features before its tokens."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32})

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self._slopes = None if spec.alibi_slopes is None else spec.alibi_slopes.float().contiguous()

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, num_kv_heads, -(-block_size // _lanes()) * _lanes(), head_dim

    @staticmethod
    def obstacle(head_dim: int) -> str | None:
        if not use():
            return "needs the CPU kernels, which cannot be had here"
        return None if head_dim % _lanes() == 0 else f"takes heads of a multiple of {_lanes()} features, not {head_dim}"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        q, k, v = (x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous() for x in (q, k, v))
        out = torch.empty(q.shape, dtype=torch.float32)
        call = batch.plan(_call, self.spec)
        call.queries, call.query_stride = q.data_ptr(), q.stride(0)
        call.keys, call.key_stride = k.data_ptr(), k.stride(0)
        call.values, call.value_stride = v.data_ptr(), v.stride(0)
        call.out, call.key_pool, call.value_pool = out.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr()
        call.padded_block = k_cache.shape[2]
        call.slopes = None if self._slopes is None else self._slopes.data_ptr()
        library = kernels()
        if library is not None:
            library.textgen_attention(ctypes.byref(call))
        return out


def _lanes() -> int:
    library = kernels()
    return 16 if library is None else int(library.textgen_lanes())


def _call(batch: AttentionBatch, spec: AttentionSpec) -> AttentionCall:
    """What all layers of that kind have in common in this step."""
    return AttentionCall(
        starts=batch.query_start.data_ptr(),
        contexts=batch.context_lens.data_ptr(),
        tables=batch.block_tables.data_ptr(),
        slots=batch.slots.data_ptr(),
        tokens=len(batch.slots),
        sequences=len(batch.context_lens),
        table_width=batch.block_tables.shape[1],
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        block_size=batch.block_size,
        window=spec.window or 0,
        scale=spec.scale,
        softcap=spec.softcap or 0.0,
    )
