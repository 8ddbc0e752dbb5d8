"""Steps in which every sequence decodes one token, on tensors that stay where they are: replayed as CUDA graphs.

Called by the runner. A step of n sequences runs as one of the next larger size that was captured:

    row       0  1  2 | 3
    sequence  a  b  c | padding: a sequence of one token, in a block that belongs to nobody

Rows do not see each other, so padding disturbs nothing. What a step needs to know is copied to the device in one
piece. What it chooses lies where the next step finds it, whose sequences `follow` choices of this one: the host need
not know them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from textgen_server.attention.base import AttentionBatch
from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.layers.rotary import LongRope
from textgen_server.models.base import CausalModel, LayerCache
from textgen_server.runner.choice import Choice, Wishes, choices_for, choose, seeds_of
from textgen_server.runner.graphs import Graphs
from textgen_server.runner.inputs import block_tables, turn
from textgen_server.runner.sampler import Chosen
from textgen_server.runner.transfer import ALIGNMENT, Array, ToHost, pack, places

_log = logging.getLogger(__name__)

MOST_TOP_K = (1 << 31) - 1
"""What a kernel takes; more than any vocabulary."""


def choice_of(samples: Sequence[Sample], possible: Sequence[Choice]) -> Choice | None:
    """The least of `possible` that does for all; None where somebody asks for more."""
    params = [s.params for s in samples]
    if any(s.constraint is not None for s in samples) or any(p.top_tokens or not p.is_simple for p in params):
        return None
    if not all(p.is_tempered for p in params):
        return Choice.FILTERED if Choice.FILTERED in possible else None
    return Choice.LIKELIEST if all(p.greedy and p.temperature == 1 for p in params) else Choice.DRAWN


def default_sizes(most: int) -> list[int]:
    """Batch sizes to capture, up to `most`: a step takes little longer with a few rows more."""
    sizes = {1, 2, 4, *range(8, 64, 8), *range(64, 256, 32), *range(256, most, 64)}
    return sorted({size for size in sizes if size < most} | {most})


class Decodes:
    """Decode steps of up to so many sequences.

    Args:
        sizes: to which batches are padded.
        caches: of all blocks; the last one must belong to no sequence.
        longest: tokens of the longest sequence.
        most_choices: how many tokens the plan before may choose, where sequences follow them.

    Attributes:
        sizes: of the batches that run, smallest first.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        model: CausalModel,
        caches: list[LayerCache],
        block_size: int,
        longest: int,
        most_choices: int,
        long: LongRope | None = None,
    ) -> None:
        self.sizes = sorted(sizes)
        self._model = model
        self._caches = caches
        self._block_size = block_size
        self._unused = caches[0].keys.shape[0] - 1
        self._width = max(1, min(-(-longest // block_size), self._unused))
        self._long = long
        self._graphs = Graphs()
        self._fields_at = {size: places(self._fields([], size)) for size in self.sizes}
        self._results_at = {size: places([np.zeros(size, np.int64), np.zeros(size, np.float32)]) for size in self.sizes}
        largest, device = self.sizes[-1], caches[0].keys.device
        # What the host sends: the fields of every row, and its blocks, which stand further apart where they are read.
        sent = self._fields_at[largest][-1].end + ALIGNMENT + 4 * largest * self._width
        self._sent = torch.zeros(sent, dtype=torch.uint8, device=device)
        self._tables = torch.full((largest, self._width), self._unused, dtype=torch.int32, device=device)
        self._query_start = torch.arange(largest + 1, dtype=torch.int32, device=device)
        self._logits: Tensor | None = None
        # What comes back: tokens, then their log-probabilities.
        received = max(self._results_at[largest][-1].end, 8 * most_choices)
        self._results = torch.zeros(received, dtype=torch.uint8, device=device)
        self._last = self._results[: 8 * most_choices].view(torch.int64)

    def capture(self) -> None:
        """Capture the steps of all sizes. Where that cannot be, it `takes` no step, and one warning says so.

        Raises:
            torch.OutOfMemoryError: not even the largest fits.
        """
        started = time.monotonic()
        done: list[int] = []
        try:
            for size in reversed(self.sizes):
                self._capture(size)
                done.insert(0, size)
        except torch.OutOfMemoryError:
            if not done:
                raise
            _log.warning("no memory for CUDA graphs of fewer than %d sequences, which run as so many now", done[0])
        except Exception as error:
            _log.warning("decode steps run without CUDA graphs, and slower, because capturing them failed: %s", error)
            self._graphs, done = Graphs(), []
        self.sizes = done
        _log.info("captured decode steps of %d sizes in %.1f s", len(done), time.monotonic() - started)

    @property
    def driver_bytes(self) -> int:
        """See Graphs."""
        return self._graphs.driver_bytes

    def _capture(self, size: int) -> None:
        self._send([], size)
        longest = [self._width * self._block_size] * size
        self._graphs.capture(("forward", size), partial(self._forward, size, longest))
        for choice in choices_for(self._tables):
            self._graphs.capture((choice, size), partial(self._choose, size, choice))

    def takes(self, plan: StepPlan) -> bool:
        """Can it run this step?"""
        items = plan.items
        return (
            bool(self.sizes)
            and plan.num_decodes == len(items) <= self.sizes[-1]
            and all(
                item.sample is not None and not item.adapter and not item.targets and len(item.blocks) <= self._width
                for item in items
            )
        )

    def launch(self, items: list[Item], previous: Tensor, sample: Callable[[Tensor, list[Sample]], Chosen]) -> Chosen:
        """Run a step that it takes.

        Args:
            previous: the tokens that the plan before chose, for items that follow them.
            sample: chooses from logits [N, vocab] in ways that are not captured.

        Returns:
            What was chosen; its `tokens` stay as they are until the next step.
        """
        size = next(size for size in self.sizes if size >= len(items))
        # Where captured steps look for the tokens of the plan before, if they are not there.
        if previous.data_ptr() != self._last.data_ptr() and any(item.follows >= 0 for item in items):
            self._last[: len(previous)].copy_(previous)
        self._send(items, size)
        context_lens = [item.start + 1 for item in items] + [1] * (size - len(items))
        self._graphs.run(("forward", size), partial(self._forward, size, context_lens))
        samples = [item.sample for item in items if item.sample is not None]
        choice = choice_of(samples, choices_for(self._tables))
        if choice is None:
            return sample(self._logits_of(size)[: len(items)], samples)
        self._graphs.run((choice, size), partial(self._choose, size, choice))
        where = self._results_at[size]
        arriving = ToHost([self._results[: where[-1].end]], where)
        return Chosen(where[0].of(self._results)[: len(items)], len(items), arriving, [0] * len(items))

    def _send(self, items: list[Item], size: int) -> None:
        """Copy what the step needs to know to where it looks for it."""
        fields, tables = self._fields(items, size), self._block_tables(items, size)
        packed, where = pack([*fields, tables], self._sent.device)
        self._sent[: len(packed)].copy_(packed, non_blocking=True)
        self._tables[:size, : tables.shape[1]].copy_(where[-1].of(self._sent))

    def _fields(self, items: list[Item], size: int) -> list[Array]:
        """Of every row: its token, position and slot, the choice that it follows, and its number of keys; then the
        `Wishes`."""
        count = len(items)
        tokens, positions, seeds = (np.zeros(size, np.int64) for _ in range(3))
        slots, follows = np.full(size, self._unused * self._block_size), np.full(size, -1)
        keys, top_ks = np.ones(size, np.int32), np.zeros(size, np.int32)
        temperatures, top_ps = np.ones(size, np.float32), np.ones(size, np.float32)
        drawn, raw = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        if items:
            starts = np.array([item.start for item in items])
            within = starts % self._block_size
            slots[:count] = [item.blocks[item.start // self._block_size] * self._block_size for item in items] + within
            tokens[:count] = [item.tokens[0] for item in items]
            positions[:count] = starts
            if self._long is not None:
                positions[:count] = turn(starts, np.array([item.long for item in items]), self._long)
            follows[:count] = [item.follows for item in items]
            keys[:count] = starts + 1
            samples = [item.sample for item in items if item.sample is not None]
            params = [sample.params for sample in samples]
            seeds[:count] = seeds_of(samples)
            temperatures[:count] = [p.temperature for p in params]
            drawn[:count] = [not p.greedy for p in params]
            raw[:count] = [p.raw_logprobs for p in params]
            top_ks[:count] = [min(p.top_k, MOST_TOP_K) for p in params]
            top_ps[:count] = [p.top_p for p in params]
        return [tokens, positions, slots, follows, keys, temperatures, drawn, raw, seeds, top_ks, top_ps]

    def _block_tables(self, items: list[Item], size: int) -> Array:
        """[size, W] int32, as wide as the longest sequence asks for."""
        tables = block_tables(items) if items else np.zeros((0, 1), np.int32)
        padding = np.full((size - len(items), tables.shape[1]), self._unused, np.int32)
        return np.concatenate([tables, padding])

    def _received(self, size: int) -> list[Tensor]:
        """The fields on the device."""
        return [place.of(self._sent) for place in self._fields_at[size]]

    def _forward(self, size: int, context_lens: list[int]) -> None:
        """From the fields to logits. `context_lens` are upper bounds where this is captured."""
        tokens, positions, slots, follows, keys, *_ = self._received(size)
        batch = AttentionBatch(
            num_decodes=size,
            query_start=self._query_start[: size + 1],
            context_lens=keys,
            block_tables=self._tables[:size],
            slots=slots,
            query_lens=[1] * size,
            host_context_lens=context_lens,
            block_size=self._block_size,
        )
        known = torch.where(follows < 0, tokens, self._last[follows.clamp(min=0)])
        logits = self._model.logits(self._model.forward(known, positions, batch, self._caches))
        if self._logits is None:
            self._logits = torch.zeros(self.sizes[-1], logits.shape[1], dtype=logits.dtype, device=logits.device)
        self._logits[:size].copy_(logits)

    def _logits_of(self, size: int) -> Tensor:
        """What `_forward` left."""
        if self._logits is None:
            raise RuntimeError("no step has run")
        return self._logits[:size]

    def _choose(self, size: int, choice: Choice) -> None:
        """From logits to results."""
        wishes = Wishes(*self._received(size)[-len(fields(Wishes)) :])
        choose(self._logits_of(size), choice, wishes, *(place.of(self._results) for place in self._results_at[size]))
