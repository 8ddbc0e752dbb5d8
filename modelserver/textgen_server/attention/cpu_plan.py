"""Of a step on the CPU, what is the same for all layers: which blocks to gather, and which keys are seen.

Worked out for cpu.py, by AttentionBatch.plan. Decodes are in groups of similar length; prompts stand alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textgen_server.attention.base import AttentionBatch

# Measured on two cores: past so many padding tokens a second group costs less than the padding.
_PADDING_TOKENS = 512


@dataclass(frozen=True)
class DecodeGroup:
    """Decodes of similar length, attended to by one batched product over `width` blocks each.

    Attributes:
        members: [n] their tokens in the flat batch, or a slice of it.
        cells: [n * kv_heads * width] rows of a pool seen as [num_blocks * kv_heads, block_size * head_dim].
        mask: [n, 1, 1, 1, width * block_size] float32, 0 where the query sees the key and -inf elsewhere.
        distances: [n, 1, width * block_size] from the query back to the key; not below 0.
    """

    members: Tensor | slice
    cells: Tensor
    mask: Tensor
    distances: Tensor


@dataclass(frozen=True)
class PrefillChunk:
    """The tokens of one prompt in this step.

    Attributes:
        tokens: where they are in the flat batch.
        keys: those that they may see, of the ones in `cells`; the last are the chunk's own.
        cells: [kv_heads * width] as in DecodeGroup.
    """

    tokens: slice
    keys: slice
    cells: Tensor

    @property
    def fresh(self) -> bool:
        """Is every key in the chunk itself?"""
        return bool(self.tokens.stop - self.tokens.start == self.keys.stop - self.keys.start)


def written_rows(batch: AttentionBatch, num_kv_heads: int) -> Tensor:
    """`rows` of the step's own slots."""
    return rows(batch.slots, batch.block_size, num_kv_heads)


def rows(slots: Tensor, block_size: int, num_kv_heads: int) -> Tensor:
    """[T * kv_heads]: where the keys of `slots` go in a pool seen as [num_blocks * kv_heads * block_size, head_dim]."""
    return (_cells(slots // block_size, num_kv_heads) * block_size + (slots % block_size)[:, None]).flatten()


def _cells(blocks: Tensor, num_kv_heads: int) -> Tensor:
    """[...] block ids -> [..., kv_heads] rows of a pool seen as [num_blocks * kv_heads, ...]."""
    return blocks[..., None] * num_kv_heads + torch.arange(num_kv_heads, device=blocks.device)


def decode_groups(batch: AttentionBatch, num_kv_heads: int, window: int | None, group_tokens: int) -> list[DecodeGroup]:
    widths = [_width(batch, decode, window) for decode in range(batch.num_decodes)]
    parts = _similar(widths, _PADDING_TOKENS // batch.block_size, group_tokens // batch.block_size)
    all_decodes: list[Tensor | slice] = [slice(0, batch.num_decodes)]
    members = all_decodes if len(parts) == 1 else [torch.tensor(part) for part in parts]
    return [
        _decode_group(batch, rows, max(widths[i] for i in part), num_kv_heads, window)
        for rows, part in zip(members, parts, strict=True)
    ]


def _width(batch: AttentionBatch, decode: int, window: int | None) -> int:
    """Blocks that the newest token of the sequence sees."""
    context, first_seen = batch.host_context_lens[decode], batch.first_key(decode)
    if window is not None:
        first_seen = max(first_seen, context - window)
    return math.ceil(context / batch.block_size) - first_seen // batch.block_size


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
    if batch.first_keys is not None:
        first_seen = first_seen.maximum(batch.first_keys[: batch.num_decodes][members].long()[:, None])
    columns = first_seen // size + torch.arange(width)
    tables = batch.block_tables[: batch.num_decodes][members].long()
    blocks = tables.gather(1, columns.clamp(max=tables.shape[1] - 1))
    positions = (columns[..., None] * size + torch.arange(size)).flatten(1)
    seen = (positions >= first_seen) & (positions < contexts)
    mask = torch.where(seen, 0.0, -math.inf)[:, None, None, None]
    distances = (contexts - 1 - positions).clamp(min=0)[:, None]
    return DecodeGroup(members, _cells(blocks, num_kv_heads).transpose(1, 2).flatten(), mask, distances)


def prefill_chunks(batch: AttentionBatch, num_kv_heads: int) -> list[PrefillChunk]:
    chunks, start = [], batch.num_decodes
    for i in range(batch.num_decodes, len(batch.query_lens)):
        length, context = batch.query_lens[i], batch.host_context_lens[i]
        blocks = batch.block_tables[i, : math.ceil(context / batch.block_size)].long()
        cells = _cells(blocks, num_kv_heads).T.flatten()
        chunks.append(PrefillChunk(slice(start, start + length), slice(batch.first_key(i), context), cells))
        start += length
    return chunks
