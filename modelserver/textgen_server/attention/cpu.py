"""Attention on the CPU with torch's operators. Chosen by attention/select.py, called by the layers.

The pools are [num_blocks, num_kv_heads, block_size, head_dim]: one index_select of (block, head) cells yields
[sequences * kv_heads, tokens, head_dim], which a batched product reads without another copy. The query heads that
share a KV head are the rows of that product, so keys and values are never repeated (grouped-query attention,
Ainslie et al. 2023).

Decodes run in groups of similar length; prompts one by one, from their own keys where nothing is cached.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.attention.cpu_plan import DecodeGroup, decode_groups, prefill_chunks, rows, written_rows

# Limit of a group of decodes, measured on two cores: a larger gather of float32 keys leaves the cache.
_GATHERED_BYTES = 8 << 20

# Query rows per tile of a prompt that needs an explicit mask: bounds the mask, and skips keys after the tile.
_TILE = 256


class CpuAttention(Attention):
    """Attention in torch operators; decodes compute in float32 whatever the dtype of the cache."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32, torch.bfloat16, torch.float16})
    cache_dtypes = frozenset({torch.bfloat16})
    relative = True

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self._group_tokens = _GATHERED_BYTES // (4 * spec.num_kv_heads * spec.head_dim)

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, num_kv_heads, block_size, head_dim

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        places = batch.plan(written_rows, self.spec.num_kv_heads)
        for cache, values in ((k_cache, k), (v_cache, v)):
            self._put(cache, values, places)
        return self._attend(q, (k, v), (k_cache, v_cache), batch)

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, block_size: int) -> None:
        places = rows(slots, block_size, self.spec.num_kv_heads)
        for cache, values in ((k_cache, k), (v_cache, v)):
            self._put(cache, values, places)

    def attend(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
        return self._attend(q, None, (k_cache, v_cache), batch)

    def _put(self, cache: Tensor, values: Tensor, places: Tensor) -> None:
        dim = self.spec.head_dim
        cache.view(-1, dim).index_copy_(0, places, values.reshape(-1, dim).to(cache.dtype))

    def _attend(
        self, q: Tensor, own: tuple[Tensor, Tensor] | None, caches: tuple[Tensor, Tensor], batch: AttentionBatch
    ) -> Tensor:
        """`own`: the keys and values of the queries' tokens, where they are at hand."""
        out = torch.empty_like(q)
        self._attend_decodes(q, *caches, batch, out)
        for chunk in batch.plan(prefill_chunks, self.spec.num_kv_heads):
            if own is not None and chunk.fresh:
                keys, values = (fresh[chunk.tokens].transpose(0, 1) for fresh in own)
            else:
                keys, values = (
                    _gather(cache, chunk.cells, self.spec.num_kv_heads)[:, chunk.keys].to(q.dtype) for cache in caches
                )
            self._prefill(q[chunk.tokens], keys, values, batch, out[chunk.tokens])
        return out

    def _attend_decodes(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch, out: Tensor) -> None:
        groups = batch.plan(decode_groups, self.spec.num_kv_heads, self.spec.window, self._group_tokens)
        if not groups:
            return
        # One buffer for the keys, then for the values, of every group and layer: fresh ones of this size would make
        # malloc return memory to the system and fault it in again, at several times the cost of the gather.
        largest = max(len(group.cells) for group in groups)
        size = largest * k_cache[0, 0].numel()
        buffers = [batch.plan(_buffer, size, dtype) for dtype in dict.fromkeys((k_cache.dtype, torch.float32))]
        for group in groups:
            out[group.members] = self._decode(q[group.members], k_cache, v_cache, group, buffers).to(q.dtype)

    def _decode(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup, buffers: list[Tensor]) -> Tensor:
        """[n, heads, head_dim] queries, one per sequence of the group -> the same shape, in float32."""
        batch_heads = len(q) * self.spec.num_kv_heads
        keys = _gather(k_cache, group.cells, batch_heads, *buffers)
        weights = self._weights(q.reshape(batch_heads, -1, self.spec.head_dim), keys, group.mask, group.distances)
        values = _gather(v_cache, group.cells, batch_heads, *buffers)
        return torch.bmm(weights, values).view(q.shape)

    def _prefill(self, q: Tensor, keys: Tensor, values: Tensor, batch: AttentionBatch, out: Tensor) -> None:
        """Attend with q [T, heads, head_dim], the last T positions of keys, values [kv_heads, K, head_dim]."""
        spec, context = self.spec, keys.shape[1]
        windowed = spec.window is not None and spec.window < context
        plain = spec.softcap is None and spec.alibi_slopes is None and spec.relative_bias is None
        if plain and not windowed and len(q) == context:
            out.copy_(_sdpa(q, keys, values, spec.scale, mask=None))
            return
        masks = batch.plan(_causal_mask, spec.window, q.dtype if plain else torch.float32)
        for start in range(0, len(q), _TILE):
            tile = q[start : start + _TILE]
            last = context - len(q) + start + len(tile)
            first = max(0, last - len(tile) + 1 - spec.window) if spec.window is not None else 0
            mask = masks[-len(tile) :, masks.shape[1] - (last - first) :]
            attend = self._sdpa_tile if plain else self._exact_tile
            out[start : start + len(tile)] = attend(tile, keys[:, first:last], values[:, first:last], mask)

    def _sdpa_tile(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return _sdpa(q, keys, values, self.spec.scale, mask)

    def _exact_tile(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """As `_sdpa`, for what torch's function lacks: softcap, and biases without a mask per head."""
        folded = q.transpose(0, 1).reshape(self.spec.num_kv_heads, -1, self.spec.head_dim)
        last = keys.shape[1]
        distances = (torch.arange(last - len(q), last)[:, None] - torch.arange(last)).clamp(min=0)
        attended = torch.bmm(self._weights(folded, keys, mask, distances[None]), values.float())
        return attended.view(self.spec.num_heads, len(q), -1).transpose(0, 1).to(q.dtype)

    def _weights(self, q: Tensor, keys: Tensor, mask: Tensor, distances: Tensor) -> Tensor:
        """softmax(scale q k^T, softcapped, + biases + mask) in float32, [n * kv_heads, group * rows, K].

        Args:
            q: [n * kv_heads, group * rows, head_dim], the query heads of a KV head one after the other.
            keys: [n * kv_heads, K, head_dim].
            mask: broadcasts to [n, kv_heads, group, rows, K].
            distances: [n, rows, K] from the query back to the key; not below 0.
        """
        spec = self.spec
        logits = torch.bmm(q.float() * spec.scale, keys.float().transpose(1, 2))
        if spec.softcap is not None:
            logits.div_(spec.softcap).tanh_().mul_(spec.softcap)
        group = spec.num_heads // spec.num_kv_heads
        by_head = logits.view(-1, spec.num_kv_heads, group, logits.shape[1] // group, logits.shape[2])
        by_head += mask
        if spec.alibi_slopes is not None:
            # slope * (key - query): a row's own constant drops out of the softmax, so key positions are enough.
            distance = torch.arange(1 - logits.shape[2], 1, device=q.device)
            by_head += spec.alibi_slopes.float().view(-1, group, 1, 1) * distance
        if spec.relative_bias is not None:
            bias = spec.relative_bias.float()[:, distances.clamp(max=spec.relative_bias.shape[1] - 1)]
            by_head += bias.movedim(0, 1).unflatten(1, (spec.num_kv_heads, group))
        return logits.softmax(-1)


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """q [T, heads, head_dim], keys and values [kv_heads, K, head_dim] -> [T, heads, head_dim]; no mask: causal."""
    attended = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def _buffer(_: AttentionBatch, numel: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(numel, dtype=dtype)


def _gather(
    cache: Tensor, cells: Tensor, rows: int, buffer: Tensor | None = None, widened: Tensor | None = None
) -> Tensor:
    """Cells of a pool as [rows, tokens, head_dim]: at the start of `buffer` where there is one, then at that of
    `widened`, which is of another type."""
    flat = cache.view(-1, cache.shape[2] * cache.shape[3])
    size = len(cells) * flat.shape[1]
    out = None if buffer is None else buffer[:size].view(len(cells), -1)
    gathered = torch.index_select(flat, 0, cells, out=out)
    if widened is not None:
        gathered = widened[:size].copy_(gathered.view(-1))
    return gathered.view(rows, -1, cache.shape[3])


def _causal_mask(batch: AttentionBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    """[_TILE or fewer, longest context] additive mask of queries whose newest sees the last key.

    What a query sees depends only on how far back a key is, so the lower right corners serve every tile of the step.
    """
    rows = min(_TILE, max(batch.query_lens))
    keys = max(batch.host_context_lens[batch.num_decodes :])
    before = torch.arange(keys - rows, keys)[:, None] - torch.arange(keys)
    hidden = before < 0 if window is None else (before < 0) | (before >= window)
    return torch.where(hidden, -math.inf, 0.0).to(dtype)
