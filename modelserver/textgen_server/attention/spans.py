"""Attention in torch's own operators to any span of a sequence, with any bias, on any device. Used by models whose
attention the paged backends do not compute: encoder-decoders, which attend to one half of the sequence at a time
(models/t5.py). Slower than those backends, which read blocks in place: keys and values are gathered first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from textgen_server.attention.base import AttentionBatch


@dataclass(frozen=True)
class Span:
    """What one sequence asks in a step: queries at consecutive positions, and the keys that they may see.

    Attributes:
        sequence: its row of the block tables.
        rows: its queries among those of the step that attend.
        first_query: position of the first of them.
        first_key, end_key: positions of the keys.
        causal: a query sees no key behind its own position.
    """

    sequence: int
    rows: slice
    first_query: int
    first_key: int
    end_key: int
    causal: bool

    @property
    def queries(self) -> int:
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True)
class SpanGroup:
    """Spans that are attended to by one product.

    Attributes:
        rows: [B, Q] their queries.
        slots: [B, K] where their keys are; padded.
        distances: [B, Q, K] position of the key minus that of the query.
        hidden: [B, 1, Q, K] True where the query does not see the key.
    """

    rows: Tensor
    slots: Tensor
    distances: Tensor
    hidden: Tensor


def group_spans(spans: Sequence[Span], batch: AttentionBatch) -> list[SpanGroup]:
    """Spans of one query together, every other alone."""
    single = [span for span in spans if span.queries == 1]
    groups = [[span] for span in spans if span.queries > 1]
    return [_group(members, batch) for members in ([single] if single else []) + groups]


def _group(spans: list[Span], batch: AttentionBatch) -> SpanGroup:
    device, tables = batch.block_tables.device, batch.block_tables

    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)[:, None]

    first, end = column([s.first_key for s in spans]), column([s.end_key for s in spans])
    longest = max(span.end_key - span.first_key for span in spans)
    keys = first + torch.arange(longest, device=device)
    absent = keys >= end
    places = torch.where(absent, first, keys)
    blocks = tables[[s.sequence for s in spans]].gather(1, places // batch.block_size).long()
    offsets = torch.arange(spans[0].queries, device=device)
    queries = column([s.first_query for s in spans]) + offsets
    distances = keys[:, None, :] - queries[:, :, None]
    causal = torch.tensor([s.causal for s in spans], device=device)[:, None, None]
    hidden = absent[:, None, :] | (causal & (distances > 0))
    return SpanGroup(
        rows=column([s.rows.start for s in spans]) + offsets,
        slots=blocks * batch.block_size + places % batch.block_size,
        distances=distances,
        hidden=hidden[:, None],
    )


def attend_spans(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    groups: Sequence[SpanGroup],
    biases: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """softmax(scale * q k^T + bias) v over the keys of each query's span.

    Args:
        q: [N, heads, head_dim], the queries of all groups.
        k_cache, v_cache: pools of [num_blocks, block_size, heads, head_dim].
        biases: for each group [B, heads, Q, K], added to the logits; None for no bias.

    Returns:
        [N, heads, head_dim], in q's dtype.
    """
    out = torch.empty_like(q)
    heads = q.shape[1]
    for index, group in enumerate(groups):
        keys, values = (cache.view(-1, *cache.shape[2:])[group.slots].transpose(1, 2) for cache in (k_cache, v_cache))
        mask = torch.zeros(1, dtype=q.dtype, device=q.device) if biases is None else biases[index].to(q.dtype)
        mask = mask.expand(len(group.rows), heads, *group.distances.shape[1:]).masked_fill(group.hidden, float("-inf"))
        queries = q[group.rows].transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
        out[group.rows] = attended.transpose(1, 2)
    return out
