"""Attention on the CPU with torch's operators. Chosen by attention/select.py, called by the layers.

The pools are [num_blocks, num_kv_heads, block_size, head_dim]: one index_select of (block, head) cells yields
[sequences * kv_heads, tokens, head_dim], which a batched product reads without another copy. The query heads that
share a KV head are the rows of that product, so keys and values are never repeated (grouped-query attention,
Ainslie et al. 2023).

Decodes run in groups of similar length; prompts one by one, from their own keys where nothing is cached.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec

# Limits of a group of decodes, both measured on two cores. A larger gather of float32 keys leaves the cache; past so
# many padding tokens a second group costs less than the padding.
_GATHERED_BYTES = 8 << 20
_PADDING_TOKENS = 512

# Query rows per tile of a prompt that needs an explicit mask: bounds the mask, and skips keys after the tile.
_TILE = 256


@dataclass(frozen=True)
class DecodeGroup:
    """Decodes of similar length, attended to by one batched product over `width` blocks each.

    Attributes:
        members: [n] their tokens in the flat batch, or a slice of it.
        cells: [n * kv_heads * width] rows of a pool seen as [num_blocks * kv_heads, block_size * head_dim].
        mask: [n, 1, 1, 1, width * block_size] float32, 0 where the query sees the key and -inf elsewhere.
    """

    members: Tensor | slice
    cells: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PrefillChunk:
    """The tokens of one prompt in this step.

    Attributes:
        tokens: where they are in the flat batch.
        context: keys of the sequence, the chunk's included.
        cells: [kv_heads * width] as in DecodeGroup; None when every key is in the chunk itself.
    """

    tokens: slice
    context: int
    cells: Tensor | None


class CpuAttention(Attention):
    """Attention in torch operators; decodes compute in float32 whatever the dtype of the cache."""

    preferred_block_size = 32
    block_size_multiple = 1
    dtypes = frozenset({torch.float32, torch.bfloat16, torch.float16})

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self._group_tokens = _GATHERED_BYTES // (4 * spec.num_kv_heads * spec.head_dim)

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        return num_blocks, num_kv_heads, block_size, head_dim

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        spec = self.spec
        rows = batch.plan(_written_rows, spec.num_kv_heads)
        for cache, values in ((k_cache, k), (v_cache, v)):
            cache.view(-1, spec.head_dim).index_copy_(0, rows, values.reshape(-1, spec.head_dim))
        out = torch.empty_like(q)
        self._attend_decodes(q, k_cache, v_cache, batch, out)
        for chunk in batch.plan(_prefill_chunks, spec.num_kv_heads):
            keys, values = (
                _gather(cache, chunk.cells, spec.num_kv_heads)[:, : chunk.context]
                if chunk.cells is not None
                else fresh[chunk.tokens].transpose(0, 1)
                for cache, fresh in ((k_cache, k), (v_cache, v))
            )
            self._prefill(q[chunk.tokens], keys, values, batch, out[chunk.tokens])
        return out

    def _attend_decodes(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch, out: Tensor) -> None:
        groups = batch.plan(_decode_groups, self.spec.num_kv_heads, self.spec.window, self._group_tokens)
        if not groups:
            return
        # One buffer for the keys, then for the values, of every group and layer: fresh ones of this size would make
        # malloc return memory to the system and fault it in again, at several times the cost of the gather.
        largest = max(len(group.cells) for group in groups)
        buffer = batch.plan(_buffer, largest * k_cache[0, 0].numel(), k_cache.dtype)
        for group in groups:
            out[group.members] = self._decode(q[group.members], k_cache, v_cache, group, buffer).to(q.dtype)

    def _decode(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup, buffer: Tensor) -> Tensor:
        """[n, heads, head_dim] queries, one per sequence of the group -> the same shape, in float32."""
        batch_heads = len(q) * self.spec.num_kv_heads
        keys = _gather(k_cache, group.cells, batch_heads, buffer)
        weights = self._weights(q.reshape(batch_heads, -1, self.spec.head_dim), keys, group.mask)
        values = _gather(v_cache, group.cells, batch_heads, buffer)
        return torch.bmm(weights, values.float()).view(q.shape)

    def _prefill(self, q: Tensor, keys: Tensor, values: Tensor, batch: AttentionBatch, out: Tensor) -> None:
        """Attend with q [T, heads, head_dim], the last T positions of keys, values [kv_heads, K, head_dim]."""
        spec, context = self.spec, keys.shape[1]
        windowed = spec.window is not None and spec.window < context
        plain = spec.softcap is None and spec.alibi_slopes is None
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
        """As `_sdpa`, for what torch's function lacks: softcap, and ALiBi without a mask per head."""
        folded = q.transpose(0, 1).reshape(self.spec.num_kv_heads, -1, self.spec.head_dim)
        attended = torch.bmm(self._weights(folded, keys, mask), values.float())
        return attended.view(self.spec.num_heads, len(q), -1).transpose(0, 1).to(q.dtype)

    def _weights(self, q: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """softmax(scale q k^T, softcapped, + ALiBi + mask) in float32, [n * kv_heads, group * rows, K].

        Args:
            q: [n * kv_heads, group * rows, head_dim], the query heads of a KV head one after the other.
            keys: [n * kv_heads, K, head_dim].
            mask: broadcasts to [n, kv_heads, group, rows, K].
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
        return logits.softmax(-1)


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """q [T, heads, head_dim], keys and values [kv_heads, K, head_dim] -> [T, heads, head_dim]; no mask: causal."""
    attended = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], keys[None], values[None], mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def _buffer(_: AttentionBatch, numel: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(numel, dtype=dtype)


def _gather(cache: Tensor, cells: Tensor, rows: int, buffer: Tensor | None = None) -> Tensor:
    """Cells of a pool as [rows, tokens, head_dim], at the start of `buffer` where there is one."""
    flat = cache.view(-1, cache.shape[2] * cache.shape[3])
    out = None if buffer is None else buffer[: len(cells) * flat.shape[1]].view(len(cells), -1)
    return torch.index_select(flat, 0, cells, out=out).view(rows, -1, cache.shape[3])


def _written_rows(batch: AttentionBatch, num_kv_heads: int) -> Tensor:
    """[T * kv_heads]: where this step's keys go in a pool seen as [num_blocks * kv_heads * block_size, head_dim]."""
    blocks, offsets = batch.slots // batch.block_size, batch.slots % batch.block_size
    return (_cells(blocks, num_kv_heads) * batch.block_size + offsets[:, None]).flatten()


def _cells(blocks: Tensor, num_kv_heads: int) -> Tensor:
    """[...] block ids -> [..., kv_heads] rows of a pool seen as [num_blocks * kv_heads, ...]."""
    return blocks[..., None] * num_kv_heads + torch.arange(num_kv_heads, device=blocks.device)


def _decode_groups(
    batch: AttentionBatch, num_kv_heads: int, window: int | None, group_tokens: int
) -> list[DecodeGroup]:
    widths = [_width(context, batch.block_size, window) for context in batch.host_context_lens[: batch.num_decodes]]
    parts = _similar(widths, _PADDING_TOKENS // batch.block_size, group_tokens // batch.block_size)
    all_decodes: list[Tensor | slice] = [slice(0, batch.num_decodes)]
    members = all_decodes if len(parts) == 1 else [torch.tensor(part) for part in parts]
    return [
        _decode_group(batch, rows, max(widths[i] for i in part), num_kv_heads, window)
        for rows, part in zip(members, parts, strict=True)
    ]


def _width(context: int, block_size: int, window: int | None) -> int:
    """Blocks that the newest of `context` tokens sees."""
    first_seen = 0 if window is None else max(0, context - window)
    return math.ceil(context / block_size) - first_seen // block_size


def _similar(widths: list[int], most_padding: int, most_gathered: int) -> list[list[int]]:
    """Indices of `widths` in groups, longest first; a group is padded to its longest. All counts in blocks."""
    groups: list[list[int]] = []
    longest = padding = 0
    for i in sorted(range(len(widths)), key=lambda i: -widths[i]):
        padding += longest - widths[i]
        if not groups or padding > most_padding or (len(groups[-1]) + 1) * longest > most_gathered:
            groups.append([])
            longest, padding = widths[i], 0
        groups[-1].append(i)
    return groups


def _decode_group(
    batch: AttentionBatch, members: Tensor | slice, width: int, num_kv_heads: int, window: int | None
) -> DecodeGroup:
    size = batch.block_size
    contexts = batch.context_lens[: batch.num_decodes][members].long()[:, None]
    first_seen = torch.zeros_like(contexts) if window is None else (contexts - window).clamp(min=0)
    columns = first_seen // size + torch.arange(width)
    tables = batch.block_tables[: batch.num_decodes][members].long()
    blocks = tables.gather(1, columns.clamp(max=tables.shape[1] - 1))
    positions = (columns[..., None] * size + torch.arange(size)).flatten(1)
    seen = (positions >= first_seen) & (positions < contexts)
    mask = torch.where(seen, 0.0, -math.inf)[:, None, None, None]
    return DecodeGroup(members, _cells(blocks, num_kv_heads).transpose(1, 2).flatten(), mask)


def _prefill_chunks(batch: AttentionBatch, num_kv_heads: int) -> list[PrefillChunk]:
    chunks, start = [], batch.num_decodes
    for i in range(batch.num_decodes, len(batch.query_lens)):
        length, context = batch.query_lens[i], batch.host_context_lens[i]
        cells = None
        if length < context:
            blocks = batch.block_tables[i, : math.ceil(context / batch.block_size)].long()
            cells = _cells(blocks, num_kv_heads).T.flatten()
        chunks.append(PrefillChunk(slice(start, start + length), context, cells))
        start += length
    return chunks


def _causal_mask(batch: AttentionBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    """[_TILE or fewer, longest context] additive mask of queries whose newest sees the last key.

    What a query sees depends only on how far back a key is, so the lower right corners serve every tile of the step.
    """
    rows = min(_TILE, max(batch.query_lens))
    keys = max(batch.host_context_lens[batch.num_decodes :])
    before = torch.arange(keys - rows, keys)[:, None] - torch.arange(keys)
    hidden = before < 0 if window is None else (before < 0) | (before >= window)
    return torch.where(hidden, -math.inf, 0.0).to(dtype)
