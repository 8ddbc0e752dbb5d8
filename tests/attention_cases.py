"""Random paged attention inputs, and what a backend makes of them beside the reference.

Used by tests/modelserver/attention and tests/gpu. Every slot of the cache has one key and value, drawn once; sequences
may share blocks, as the prefix cache makes them, and their blocks lie in any order.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec, attend_reference, write_reference


@dataclass(frozen=True)
class Case:
    """`queries[i]` new tokens after `cached[i]` old ones, per sequence; decodes (one query) first.

    Attributes:
        shared_blocks: the first so many blocks are the same in all sequences that fill them from the cache.
        first_keys: of each sequence, the keys before are hidden; or empty.
    """

    name: str
    spec: AttentionSpec
    queries: Sequence[int]
    cached: Sequence[int]
    block_size: int = 16
    shared_blocks: int = 0
    first_keys: Sequence[int] = ()

    @property
    def contexts(self) -> list[int]:
        return [new + old for new, old in zip(self.queries, self.cached, strict=True)]

    @property
    def relative(self) -> bool:
        """Is it only for backends that are?"""
        return self.spec.relative_bias is not None or bool(self.first_keys)


def spec(heads: int = 6, kv_heads: int = 2, head_dim: int = 64, **options: object) -> AttentionSpec:
    return AttentionSpec(heads, kv_heads, head_dim, scale=head_dim**-0.5, **options)  # type: ignore[arg-type]


def slopes(heads: int) -> Tensor:
    """The ALiBi paper's slopes for a power of two of heads, and any other positive ones for the rest."""
    return torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])


def biases(heads: int, distances: int) -> Tensor:
    return torch.randn(heads, distances, generator=torch.Generator().manual_seed(3))


def named_cases() -> list[Case]:
    """One case per promise of the protocol."""
    mixed: dict[str, Sequence[int]] = {"queries": (1, 1, 1, 7, 20, 1), "cached": (40, 0, 16, 0, 29, 0)}
    return [
        Case("decodes of any length", spec(), (1,) * 5, (0, 15, 16, 70, 33)),
        Case("fresh prompts", spec(), (5, 1, 33), (0, 0, 0)),
        Case("chunks after cached context", spec(), (5, 17, 2), (16, 3, 64)),
        Case("decodes and chunks", spec(), **mixed),
        Case("shared prefix", spec(), (1, 1, 9, 4), (40, 37, 35, 32), shared_blocks=2),
        Case("every head its own keys", spec(4, 4), **mixed),
        Case("one key head for all", spec(5, 1), **mixed),
        Case("head_dim 80", spec(2, 1, 80), **mixed),
        Case("head_dim 96", spec(2, 2, 96), **mixed),
        Case("head_dim 128", spec(8, 2, 128), **mixed),
        Case("head_dim 256", spec(2, 1, 256), **mixed),
        Case("window inside a block", spec(window=5), **mixed),
        Case("window across blocks", spec(window=24), **mixed),
        Case("alibi", spec(alibi_slopes=slopes(6)), **mixed),
        Case("softcap", spec(softcap=2.0), **mixed),
        Case("all at once", spec(softcap=5.0, window=19, alibi_slopes=slopes(6)), **mixed),
        Case("bias by distance", spec(relative_bias=biases(6, 9)), **mixed),
        Case("first keys hidden", spec(), **mixed, first_keys=(40, 0, 16, 0, 3, 0)),
        Case(
            "bias, first keys hidden",
            spec(4, 4, relative_bias=biases(4, 30)),
            (1, 1, 3, 1),
            (40, 16, 17, 5),
            first_keys=(17, 16, 17, 4),
        ),
        Case("blocks of 32", spec(), **mixed, block_size=32),
        Case("blocks of 256", spec(), **mixed, block_size=256),
    ]


def random_case(seed: int, longest: int) -> Case:
    """Any mix of decodes, chunks and options; prompts and cached contexts of up to `longest` tokens."""
    draw = random.Random(seed)
    kv_heads, group = draw.choice([1, 2, 3]), draw.choice([1, 2, 3, 4, 7])
    decodes, chunks = draw.randint(0, 5), draw.randint(0, 3)
    queries = (1,) * decodes + tuple(draw.randint(1, longest) for _ in range(chunks or not decodes))
    options = {
        "window": draw.choice([None, None, draw.randint(1, longest)]),
        "softcap": draw.choice([None, None, 3.0]),
        "alibi_slopes": draw.choice([None, None, slopes(kv_heads * group)]),
    }
    return Case(
        f"random {seed}",
        spec(kv_heads * group, kv_heads, draw.choice([32, 64, 80]), **options),
        queries,
        tuple(draw.choice([0, draw.randint(0, longest)]) for _ in queries),
        block_size=draw.choice([16, 32]),
        shared_blocks=draw.choice([0, 1]),
    )


class PagedRun:
    """One case's tensors on a device, and both computations over them."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        self.generator = torch.Generator().manual_seed(7)
        widths = [-(-context // case.block_size) for context in case.contexts]
        self.num_blocks = 1 + case.shared_blocks + sum(widths)
        self.tables = self._tables(widths)
        slots = self.num_blocks * case.block_size
        self.all_keys, self.all_values = (
            self._random(slots, case.spec.num_kv_heads, case.spec.head_dim) for _ in range(2)
        )
        self.q = self._random(sum(case.queries), case.spec.num_heads, case.spec.head_dim)
        step = self.batch(case.queries, case.contexts, decodes=self._leading_decodes())
        first_keys = list(case.first_keys)
        on_device = torch.tensor(first_keys, device=device, dtype=torch.int32) if first_keys else None
        self.step = replace(step, first_keys=on_device, host_first_keys=first_keys)

    def _leading_decodes(self) -> int:
        queries = [*self.case.queries, 0]
        return next(i for i, length in enumerate(queries) if length != 1)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, self.dtype)

    def _tables(self, widths: list[int]) -> Tensor:
        """Block 0 belongs to nobody, so that padding columns point at foreign contents."""
        case = self.case
        blocks = iter((torch.randperm(self.num_blocks - 1, generator=self.generator) + 1).tolist())
        tables = torch.zeros(len(widths), max(widths), dtype=torch.int32)
        shared = [next(blocks) for _ in range(case.shared_blocks)]
        for i, width in enumerate(widths):
            common = min(len(shared), case.cached[i] // case.block_size)
            tables[i, :width] = torch.tensor([*shared[:common], *(next(blocks) for _ in range(width - common))])
        return tables.to(self.device)

    def batch(self, queries: Sequence[int], contexts: Sequence[int], decodes: int) -> AttentionBatch:
        size = self.case.block_size
        slots = []
        for i, (length, context) in enumerate(zip(queries, contexts, strict=True)):
            positions = torch.arange(context - length, context, device=self.device)
            slots.append(self.tables[i].long()[positions // size] * size + positions % size)
        starts = torch.tensor([0, *queries]).cumsum(0)
        return AttentionBatch(
            num_decodes=decodes,
            query_start=starts.to(self.device, torch.int32),
            context_lens=torch.tensor(list(contexts), device=self.device, dtype=torch.int32),
            block_tables=self.tables[: len(queries)],
            slots=torch.cat(slots),
            query_lens=list(queries),
            host_context_lens=list(contexts),
            block_size=size,
        )

    def history(self) -> AttentionBatch | None:
        """The step that wrote what the case finds in the cache."""
        with_past = [i for i, length in enumerate(self.case.cached) if length]
        if not with_past:
            return None
        lengths = [self.case.cached[i] for i in with_past]
        everyone, self.tables = self.tables, self.tables[with_past]
        batch = self.batch(lengths, lengths, decodes=0)
        self.tables = everyone
        return batch

    def pools(self, backend: type[Attention], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        case, dtype = self.case, dtype or self.dtype
        shape = backend.pool_shape(self.num_blocks, case.block_size, case.spec.num_kv_heads, case.spec.head_dim, dtype)
        key_pool, value_pool = (torch.zeros(shape, device=self.device, dtype=dtype) for _ in range(2))
        return key_pool, value_pool

    def attended_by(
        self, backend: type[Attention], step: AttentionBatch | None = None, cache_dtype: torch.dtype | None = None
    ) -> Tensor:
        """`step`, by default the case's own, over a cache that the backend itself filled in an earlier step."""
        layer, pools, step = backend(self.spec_on_device()), self.pools(backend, cache_dtype), step or self.step
        self.fill(layer, pools)
        return layer.forward(self.q, *self.keys_and_values(step), *pools, step)

    def fill(self, layer: Attention, pools: tuple[Tensor, Tensor]) -> None:
        history = self.history()
        if history is not None:
            q = self._random(len(history.slots), *self.q.shape[1:])
            layer.forward(q, *self.keys_and_values(history), *pools, history)

    def keys_and_values(self, batch: AttentionBatch) -> tuple[Tensor, Tensor]:
        return self.all_keys[batch.slots], self.all_values[batch.slots]

    def spec_on_device(self) -> AttentionSpec:
        alibi, bias = self.case.spec.alibi_slopes, self.case.spec.relative_bias
        return replace(
            self.case.spec,
            alibi_slopes=None if alibi is None else alibi.to(self.device),
            relative_bias=None if bias is None else bias.to(self.device),
        )

    def reference_pools(self, *batches: AttentionBatch) -> tuple[Tensor, Tensor]:
        shape = (self.num_blocks, self.case.block_size, *self.all_keys.shape[1:])
        key_pool, value_pool = (torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2))
        for batch in batches:
            for pool, written in zip((key_pool, value_pool), self.keys_and_values(batch), strict=True):
                write_reference(pool, written, batch.slots)
        return key_pool, value_pool

    def expected(self, step: AttentionBatch | None = None) -> Tensor:
        history, step = self.history(), step or self.step
        pools = self.reference_pools(*([history] if history else []), step)
        return attend_reference(self.spec_on_device(), self.q, *pools, step)
