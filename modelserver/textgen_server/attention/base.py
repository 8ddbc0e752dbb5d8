"""The protocol of attention backends, and the layout of a step that they all read.

A step is a flat batch of tokens. Its sequences are ordered: first those that decode (one token each), then the
prefill chunks:

    tokens    d0 d1 d2 | p0 p0 p0 p0 | p1 p1 p1
    sequence  0  1  2  | 3           | 4
    query_start = [0, 1, 2, 3, 7, 10],  num_decodes = 3

The KV cache of a layer is a pool of blocks of `block_size` tokens. `block_tables[i]` lists the blocks of sequence i in
order; token t of the sequence lies in block `block_tables[i][t // block_size]` at offset `t % block_size`.
The memory order inside a block is the backend's own (`cache_shape`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, TypeVarTuple, cast

import torch
from torch import Tensor

Plan = TypeVar("Plan")
Args = TypeVarTuple("Args")


@dataclass(frozen=True)
class AttentionSpec:
    """What a layer's attention computes; constant over its life. Head counts are those of this rank.

    Attributes:
        scale: factor on the logits, usually head_dim ** -0.5.
        window: a query sees only the last `window` keys, itself included (Mistral); None sees all.
        alibi_slopes: one slope per query head [num_heads] (Press et al. 2022), or None.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), or None.
        relative_bias: [num_heads, D], added to the logits of keys 0, 1, ... D - 1 places before the query, the last to
            those of all keys before (T5), or None.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    alibi_slopes: Tensor | None = None
    softcap: float | None = None
    relative_bias: Tensor | None = None


@dataclass(frozen=True)
class AttentionBatch:
    """Who attends to what in this step; the same for every layer.

    Attributes:
        num_decodes: the first so many sequences have exactly one query token.
        query_start: [B + 1] int32, on the device: where each sequence's tokens start in the flat batch.
        context_lens: [B] int32, on the device: keys of each sequence, this step's included.
        block_tables: [B, W] int32, on the device; columns past a sequence's last block hold 0.
        slots: [T] int64, on the device: where each token's key and value go: block * block_size + offset.
        query_lens, host_context_lens: the same lengths on the host, for planning without a synchronisation.
        encoder_lens: with an encoder-decoder model, on the host: how many tokens of each sequence are the encoder's.
        block_size: tokens per block.
        first_keys: [B] int32, on the device: no query of the sequence sees a key before this one; None for 0.
        host_first_keys: the same on the host, or empty.

    On a CUDA device the runner may replay a captured step after writing new values into the tensors of a batch that
    only decodes; the host's lengths are then upper bounds.
    """

    num_decodes: int
    query_start: Tensor
    context_lens: Tensor
    block_tables: Tensor
    slots: Tensor
    query_lens: list[int]
    host_context_lens: list[int]
    block_size: int
    encoder_lens: list[int] = field(default_factory=list)
    first_keys: Tensor | None = None
    host_first_keys: list[int] = field(default_factory=list)
    _plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, build: Callable[["AttentionBatch", *Args], Plan], *args: *Args) -> Plan:
        """`build(self, *args)`, worked out by the first layer that asks and shared with the layers after it.

        For what depends on the step but not on the layer: masks, gather indices, launch grids. Arguments must be
        hashable. The plan of a step that may be replayed must not hold tensors computed from the batch's tensors.
        """
        key = (build, args)
        if key not in self._plans:
            self._plans[key] = build(self, *args)
        return cast(Plan, self._plans[key])

    def first_key(self, sequence: int) -> int:
        """On the host."""
        return self.host_first_keys[sequence] if self.host_first_keys else 0


class Attention(Protocol):
    """A backend. One instance serves one layer; layers share the work that a step needs once by `batch.plan`.

    Attributes:
        preferred_block_size: tokens per block when the user names none.
        block_size_multiple: block sizes must be a multiple of this.
        dtypes: what q, k and v may be, and the cache with them.
        cache_dtypes: what else the cache may be, whatever q, k and v are.
        relative: whether it computes a `relative_bias`, and keeps to `first_keys`.
        turns: whether it has `forward_turning`.
    """

    preferred_block_size: ClassVar[int]
    block_size_multiple: ClassVar[int]
    dtypes: ClassVar[frozenset[torch.dtype]]
    cache_dtypes: ClassVar[frozenset[torch.dtype]] = frozenset()
    relative: ClassVar[bool] = False
    turns: ClassVar[bool] = False

    def __init__(self, spec: AttentionSpec) -> None: ...

    @staticmethod
    def cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
        """Shape of the key pool of one layer, and of its value pool; `num_blocks` first, the rest as this one reads."""
        ...

    @classmethod
    def pool_shape(
        cls, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        """The same for pools of `dtype`: those of 8 bits have room for scales too."""
        return cls.cache_shape(num_blocks, block_size, num_kv_heads, head_dim)

    @staticmethod
    def obstacle(head_dim: int) -> str | None:
        """Why it cannot attend with heads of that many features, after its name in a sentence; None when it can."""
        return None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch
    ) -> Tensor:
        """Write this step's keys and values into the cache, then attend.

        Args:
            q: [T, num_heads, head_dim]; k, v: [T, num_kv_heads, head_dim], rotary already applied.
            k_cache, v_cache: pools of `cache_shape`, written in place. A new pool must hold zeros: backends may read
                slots that no token was written to, and weigh them with zero.

        Returns:
            [T, num_heads, head_dim], in q's dtype. Causal: token t of a sequence sees keys 0..t.
        """
        ...

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
        """`forward` of queries and keys that have yet to turn, by cos and sin [T, 1, dim] as layers.rotary.rotate does
        it: backends that do so while they write save launches and a pass over both."""
        raise NotImplementedError

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, block_size: int) -> None:
        """Only put keys and values into the cache; token i's go to `slots[i]`."""
        raise NotImplementedError

    def attend(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
        """`forward` with keys and values that are in the cache already. Backends that are `relative` have this and
        `write`, for keys that are not the queries' own (cross-attention)."""
        raise NotImplementedError


def write_reference(cache: Tensor, values: Tensor, slots: Tensor) -> None:
    """Reference write into a pool of [num_blocks, block_size, heads, head_dim]."""
    cache.view(-1, *cache.shape[2:]).index_copy_(0, slots, values.to(cache.dtype))


def attend_reference(spec: AttentionSpec, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: AttentionBatch) -> Tensor:
    """Slow and plain attention over pools of [num_blocks, block_size, heads, head_dim]; what backends agree with.

    softmax(scale * q k^T + bias) v per sequence and head, in float64 (Vaswani et al. 2017), with the causal mask,
    the window, the biases and the softcap of `spec`.
    """
    out = torch.empty_like(q)
    starts = batch.query_start.tolist()
    for i, (q_len, context) in enumerate(zip(batch.query_lens, batch.host_context_lens, strict=True)):
        positions = torch.arange(batch.first_key(i), context, device=q.device)
        blocks = batch.block_tables[i][positions // batch.block_size].long()
        keys = k_cache[blocks, positions % batch.block_size].double()
        values = v_cache[blocks, positions % batch.block_size].double()
        repeat = spec.num_heads // spec.num_kv_heads
        keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
        rows = slice(starts[i], starts[i] + q_len)
        logits = torch.einsum("qhd,khd->hqk", q[rows].double(), keys) * spec.scale
        if spec.softcap is not None:
            logits = spec.softcap * torch.tanh(logits / spec.softcap)
        query_positions = torch.arange(context - q_len, context, device=q.device)[:, None]
        if spec.alibi_slopes is not None:
            logits += spec.alibi_slopes.double()[:, None, None] * (positions - query_positions)
        if spec.relative_bias is not None:
            distances = (query_positions - positions).clamp(0, spec.relative_bias.shape[1] - 1)
            logits += spec.relative_bias.double()[:, distances]
        hidden = positions > query_positions
        if spec.window is not None:
            hidden |= positions <= query_positions - spec.window
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1)
        out[rows] = torch.einsum("hqk,khd->qhd", weights, values).to(out.dtype)
    return out
