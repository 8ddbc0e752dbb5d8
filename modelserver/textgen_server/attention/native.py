"""Attention on the CPU by the kernels of native/, which read keys and values in the blocks where they lie."""

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.native.library import kernels, use
from textgen_server.native.ops import PackedLinear, rows_of


class AttentionCall(ctypes.Structure):
    """Mirrors TextgenAttention of native/attention.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("queries", "keys", "values")),
        *((name, c_int64) for name in ("query_stride", "key_stride", "value_stride")),
        *((name, c_void_p) for name in ("out", "key_pool", "value_pool")),
        *((name, c_void_p) for name in ("starts", "contexts", "tables", "slots", "first_keys", "slopes", "bias")),
        *((name, c_int64) for name in ("tokens", "sequences", "table_width")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "block_size", "padded_block")),
        *((name, c_int64) for name in ("bias_distances", "window", "pool_bytes")),
        ("scale", c_float),
        ("softcap", c_float),
    )


class NativeAttention(Attention):
    """The pools are [num_blocks, kv_heads, padded tokens, head_dim], the tokens of a block padded to whole vectors; the
    key pool has its features before its tokens. In bfloat16 they take half the room; arithmetic stays in float32."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32})
    cache_dtypes = frozenset({torch.bfloat16})
    relative = True

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self._slopes, self._bias = (
            None if numbers is None else numbers.float().contiguous()
            for numbers in (spec.alibi_slopes, spec.relative_bias)
        )

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
        self.write(k, v, k_cache, v_cache, batch.slots, batch.block_size)
        return self.attend(q, k_cache, v_cache, batch)

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, block_size: int) -> None:
        k, v = _rows(k), _rows(v)
        _run(
            AttentionCall(
                keys=k.data_ptr(),
                values=v.data_ptr(),
                key_stride=k.stride(0),
                value_stride=v.stride(0),
                key_pool=k_cache.data_ptr(),
                value_pool=v_cache.data_ptr(),
                slots=slots.data_ptr(),
                tokens=len(k),
                kv_heads=self.spec.num_kv_heads,
                head_dim=self.spec.head_dim,
                block_size=block_size,
                padded_block=k_cache.shape[2],
                pool_bytes=k_cache.itemsize,
            )
        )

    def attend(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
        q, out = _rows(q), torch.empty(q.shape, dtype=torch.float32)
        call = self.call(k_cache, v_cache, batch)
        call.queries, call.query_stride, call.out = q.data_ptr(), q.stride(0), out.data_ptr()
        _run(call)
        return out

    def between(
        self,
        qkv: PackedLinear,
        out: PackedLinear,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        k_cache: Tensor,
        v_cache: Tensor,
        batch: AttentionBatch,
    ) -> Tensor:
        """What layers.self_attention.SelfAttention computes of x [T, hidden], in one call; `rotary` of Rotary.at."""
        call, x = self.call(k_cache, v_cache, batch), rows_of(x)
        result = torch.empty(len(x), out.features, dtype=torch.float32)
        cos, sin, dim = (None, None, 0) if rotary is None else (*(t.data_ptr() for t in rotary), rotary[0].shape[-1])
        _library().textgen_self_attention(
            qkv.address, out.address, ctypes.byref(call), x.data_ptr(), x.stride(0), cos, sin, dim, result.data_ptr(),
            len(x),
        )  # fmt: skip
        return result

    def call(self, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> AttentionCall:
        """All but what is attended with; the same one for all layers of a kind in a step, each of which says its pools
        anew."""
        call = batch.plan(_call, self.spec)
        call.key_pool, call.value_pool, call.padded_block = k_cache.data_ptr(), v_cache.data_ptr(), k_cache.shape[2]
        call.pool_bytes = k_cache.itemsize
        call.slopes, call.bias = (
            None if numbers is None else numbers.data_ptr() for numbers in (self._slopes, self._bias)
        )
        return call


def _rows(x: Tensor) -> Tensor:
    """[T, heads, head_dim] with contiguous rows, which may lie apart."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def _run(call: AttentionCall) -> None:
    _library().textgen_attention(ctypes.byref(call))


def _library() -> ctypes.CDLL:
    library = kernels()
    if library is None:
        raise RuntimeError("the CPU kernels are not in use")
    return library


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
        first_keys=None if batch.first_keys is None else batch.first_keys.data_ptr(),
        sequences=len(batch.context_lens),
        table_width=batch.block_tables.shape[1],
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        block_size=batch.block_size,
        bias_distances=0 if spec.relative_bias is None else spec.relative_bias.shape[1],
        window=spec.window or 0,
        scale=spec.scale,
        softcap=spec.softcap or 0.0,
    )
