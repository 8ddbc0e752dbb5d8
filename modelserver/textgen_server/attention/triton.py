"""Attention by our Triton kernels. Chosen by attention/select.py, called by the layers.

This file decides grids and tile sizes, from shapes and host lengths only, so that a step of decodes can be captured
in a CUDA graph; the arithmetic is in triton_kernels.py.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from textgen_server.attention import triton_kernels as kernels
from textgen_server.attention import triton_writing as writing
from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec

# Tiles of keys and of values of this many bytes, on their way and at work, fit any GPU's shared memory.
_TILE_BYTES = 16 << 10
_MAX_TILE_KEYS = 128

# Tensor cores take at least 16 rows.
_DECODE_ROWS = 16

# Tiles of keys on their way to a program: a place in the block table, the keys there, and those at work.
_STAGES = 3

# The kernel aims at so many programs that read keys for each of the device's multiprocessors, three of which fit one.
_PROGRAMS_WITH_KEYS = 4
# It decides by the lengths in use; those that get no keys end at once, and this is how many may, in all.
_PROGRAMS = 16
_LEAST_SPLITS, _MOST_SPLITS = 4, 64
_TILES_PER_SPLIT = 2


@dataclass(frozen=True)
class Launch:
    """One launch of `attend`: `count` sequences from `first`, of at most `queries` tokens each, `tokens` in all from
    `first_token` on. The keys of a row are shared by `splits` programs at most."""

    first: int
    count: int
    queries: int
    first_token: int
    tokens: int
    rows: int
    warps: int
    splits: int


class TritonAttention(Attention):
    """Paged flash attention in Triton: decodes split over their keys, prompts in causal tiles."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float16, torch.bfloat16, torch.float32})
    cache_dtypes = frozenset({torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})
    relative = True
    turns = True

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self._group = spec.num_heads // spec.num_kv_heads
        self._padded_dim: int = max(16, triton.next_power_of_2(spec.head_dim))
        self._slopes = None if spec.alibi_slopes is None else spec.alibi_slopes.float().contiguous()
        self._bias = None if spec.relative_bias is None else spec.relative_bias.float().contiguous()

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, num_kv_heads, block_size, head_dim

    @classmethod
    def pool_shape(
        cls, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        """Behind the numbers of 8 bits of a block and head lie the float32 scales of its tokens."""
        if dtype.itemsize > 1:
            return cls.cache_shape(num_blocks, block_size, num_kv_heads, head_dim)
        return num_blocks, num_kv_heads, block_size * (head_dim + 4)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        self.write(k, v, k_cache, v_cache, batch.slots, batch.block_size)
        return self.attend(q, k_cache, v_cache, batch)

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rotary: tuple[Tensor, Tensor],
        k_cache: Tensor,
        v_cache: Tensor,
        batch: AttentionBatch,
    ) -> Tensor:
        turned = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._write(k, v, k_cache, v_cache, batch.slots, batch.block_size, (q, turned, *rotary))
        return self.attend(turned, k_cache, v_cache, batch)

    def attend(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        decodes, prompts = batch.num_decodes, len(batch.query_lens) - batch.num_decodes
        if decodes:
            rows = max(_DECODE_ROWS, triton.next_power_of_2(self._group))
            launch = Launch(0, decodes, 1, 0, decodes, rows, 4, self._most_splits(decodes, k_cache, batch))
            self._attend(q, k_cache, v_cache, out, batch, launch)
        if prompts:
            queries, rows = batch.query_lens[decodes:], self._prefill_rows(q.dtype)
            tiles = sum(triton.cdiv(length * self._group, rows) for length in queries)
            # Chunks that fill the device need no splits, which would take memory for their parts.
            fills = tiles * self.spec.num_kv_heads >= _processors(q.device)
            splits = 1 if fills else self._most_splits(tiles, k_cache, batch)
            launch = Launch(decodes, prompts, max(queries), decodes, len(q) - decodes, rows, 8, splits)
            self._attend(q, k_cache, v_cache, out, batch, launch)
        return out

    def _prefill_rows(self, dtype: torch.dtype) -> int:
        """The most rows whose results and weights fit the registers of 8 warps."""
        if dtype == torch.float32:
            return 32
        return 128 if self._padded_dim <= 128 else 64

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, block_size: int) -> None:
        self._write(k, v, k_cache, v_cache, slots, block_size, None)

    def _write(
        self,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slots: Tensor,
        block_size: int,
        turning: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    ) -> None:
        """`turning` is queries, where they go once turned, cos and sin; None where nothing turns."""
        spec = self.spec
        q, turned, cos, sin = turning or (k, k, k, k)
        writing.write_cache[(len(k), spec.num_kv_heads)](
            q,
            k,
            v,
            cos,
            sin,
            turned,
            k_cache,
            v_cache,
            _scales(k_cache),
            _scales(v_cache),
            slots,
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            *k_cache.stride()[:2],
            HEADS=spec.num_heads,
            GROUP=self._group,
            PADDED_GROUP=triton.next_power_of_2(self._group),
            HEAD_DIM=spec.head_dim,
            PADDED_DIM=self._padded_dim,
            ROTARY_DIM=0 if turning is None else cos.shape[-1],
            BLOCK_SIZE=block_size,
            LARGEST=_largest(k_cache),
            num_warps=1,
        )

    def _attend(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, batch: AttentionBatch, launch: Launch
    ) -> None:
        spec, splits = self.spec, launch.splits
        parts, lse = out, out
        if splits > 1:
            shape = (launch.tokens, spec.num_heads, splits)
            parts = torch.empty(*shape, spec.head_dim, dtype=torch.float32, device=q.device)
            lse = torch.empty(shape, dtype=torch.float32, device=q.device)
        tiles = triton.cdiv(launch.queries * self._group, launch.rows)
        kernels.attend[(tiles * spec.num_kv_heads, launch.count, splits)](
            q,
            k_cache,
            v_cache,
            _scales(k_cache),
            _scales(v_cache),
            out,
            parts,
            lse,
            batch.query_start,
            batch.context_lens,
            batch.block_tables,
            self._slopes,
            self._bias,
            batch.first_keys,
            launch.first,
            launch.count,
            launch.first_token,
            _PROGRAMS_WITH_KEYS * _processors(q.device),
            batch.block_tables.stride(0),
            spec.scale,
            *q.stride()[:2],
            *k_cache.stride()[:2],
            HEADS=spec.num_heads,
            GROUP=self._group,
            HEAD_DIM=spec.head_dim,
            PADDED_DIM=self._padded_dim,
            BLOCK_SIZE=batch.block_size,
            SCALED=k_cache.element_size() == 1,
            WINDOW=spec.window or 0,
            SOFTCAP=spec.softcap or 0.0,
            HAS_ALIBI=self._slopes is not None,
            DISTANCES=0 if self._bias is None else self._bias.shape[1],
            HAS_FIRST_KEYS=batch.first_keys is not None,
            DECODES=launch.queries == 1,
            SPLITS=splits > 1,
            ROWS=launch.rows,
            KEYS=self._tile_keys(k_cache),
            num_warps=launch.warps,
            num_stages=_STAGES,
        )
        if splits > 1:
            kernels.merge_splits[(launch.tokens * spec.num_heads,)](
                parts,
                lse,
                out[launch.first_token :],
                HEAD_DIM=spec.head_dim,
                PADDED_DIM=self._padded_dim,
                MOST=splits,
            )

    def _tile_keys(self, k_cache: Tensor) -> int:
        # Biases by distance come in tiles of their own.
        most = _MAX_TILE_KEYS if self._bias is None else _MAX_TILE_KEYS // 2
        return max(16, min(most, _TILE_BYTES // (self._padded_dim * max(k_cache.element_size(), 2))))

    def _most_splits(self, tiles: int, k_cache: Tensor, batch: AttentionBatch) -> int:
        """How many programs may share the keys of each of `tiles` tiles of rows, a power of two. A captured step may
        be replayed with any lengths up to the width of its block tables."""
        longest = batch.block_tables.shape[1] * batch.block_size
        if self.spec.window is not None:
            longest = min(longest, self.spec.window)
        useful = longest // (_TILES_PER_SPLIT * self._tile_keys(k_cache))
        room = max(_LEAST_SPLITS, _PROGRAMS * _processors(k_cache.device) // (tiles * self.spec.num_kv_heads))
        most = max(1, min(useful, room, _MOST_SPLITS))
        return 1 << (most.bit_length() - 1)


def _scales(pool: Tensor) -> Tensor:
    """A pool of 8 bits as float32, some of which are its scales; any other pool as it is."""
    return pool.view(torch.float32) if pool.element_size() == 1 else pool


def _largest(pool: Tensor) -> float:
    """The largest number of a pool of 8 bits; 0 for others, which need no scales."""
    return torch.finfo(pool.dtype).max if pool.element_size() == 1 else 0.0


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the device; in Triton's interpreter, which has none, a number that leads to splits."""
    if device.type != "cuda":
        return 32
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
