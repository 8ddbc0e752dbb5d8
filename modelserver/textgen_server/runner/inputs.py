"""From a plan to the tensors of one forward pass. Called by the runner, on every rank alike."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textgen_server.attention.base import AttentionBatch
from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.layers.rotary import LongRope
from textgen_server.runner.transfer import Array, to_device


@dataclass(frozen=True)
class StepInputs:
    """One step on the device.

    Attributes:
        tokens: [T] int64.
        positions: [T] int64, as rows of the rotary embedding's table where there is one.
        batch: who attends to what.
        sample_rows: [N] int64, the rows of the flat batch after which a token is chosen, or None for all of them.
        samples: how, in the order of the rows.
        targets: where the tokens that follow are scored.
        adapters: the adapters in use, each with its rows of the flat batch [n] int64.
    """

    tokens: Tensor
    positions: Tensor
    batch: AttentionBatch
    sample_rows: Tensor | None
    samples: list[Sample]
    targets: list["Targets"]
    adapters: list[tuple[str, Tensor]]


@dataclass(frozen=True)
class Targets:
    """Tokens of one item whose log-probabilities are asked for.

    Attributes:
        first_row: the row of the flat batch after which the first of them comes; the others follow.
        tokens: [R] int64.
        top: how many of the likeliest tokens of each place are wanted.
    """

    first_row: int
    tokens: Tensor
    top: int


def build(
    plan: StepPlan,
    block_size: int,
    device: torch.device,
    long: LongRope | None = None,
    previous: Tensor | None = None,
) -> StepInputs:
    """Lay the items of `plan` out as a flat batch.

    Args:
        long: tells where long sequences find their angles.
        previous: the tokens that the plan before chose, for items that follow them.
    """
    items = plan.items
    query_lens = [len(item.tokens) for item in items]
    context_lens = [item.start + len(item.tokens) for item in items]
    starts = np.zeros(len(items) + 1, dtype=np.int32)
    np.cumsum(query_lens, out=starts[1:])
    positions = np.concatenate([np.arange(item.start, item.start + len(item.tokens)) for item in items])
    tables = block_tables(items)
    rows = np.repeat(np.arange(len(items)), query_lens)
    slots = tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    choices = [item.choices() for item in items]
    sampled = [row for end, of_item in zip(starts[1:], choices, strict=True) for row in range(end - len(of_item), end)]
    followers = [(end - 1, item.follows) for end, item in zip(starts[1:], items, strict=True) if item.follows >= 0]
    scored = [(int(first), item) for first, item in zip(starts, items, strict=False) if item.targets]
    of_adapters = _rows_of_adapters(items, starts)
    tokens, turned, on_slots, lens, start_rows, on_tables, sampled_rows, following, *rest = to_device(
        [
            np.fromiter((t for item in items for t in item.tokens), np.int64, len(rows)),
            positions if long is None else turn(positions, np.repeat([item.long for item in items], query_lens), long),
            slots,
            np.array(context_lens, dtype=np.int32),
            starts,
            tables,
            np.array(sampled, dtype=np.int64),
            np.array(followers, dtype=np.int64).reshape(-1, 2),
            *(np.array(item.targets, dtype=np.int64) for _, item in scored),
            *of_adapters.values(),
        ],
        device,
    )
    if followers and previous is not None:
        tokens.index_copy_(0, following[:, 0], previous[following[:, 1]])
    batch = AttentionBatch(
        num_decodes=plan.num_decodes,
        query_start=start_rows,
        context_lens=lens,
        block_tables=on_tables,
        slots=on_slots,
        query_lens=query_lens,
        host_context_lens=context_lens,
        block_size=block_size,
        encoder_lens=[item.encoder_length for item in items],
    )
    return StepInputs(
        tokens=tokens,
        positions=turned,
        batch=batch,
        sample_rows=None if len(sampled) == len(rows) else sampled_rows,
        samples=list(itertools.chain.from_iterable(choices)),
        targets=[
            Targets(first, targets, item.top_targets) for (first, item), targets in zip(scored, rest, strict=False)
        ],
        adapters=list(zip(of_adapters, rest[len(scored) :], strict=True)),
    )


def turn(positions: Array, are_long: Array, long: LongRope) -> Array:
    """`positions` [T] of sequences that are long to LongRoPE or not, as rows of the table of angles."""
    rows: Array = positions + long.shift * (are_long & (positions < long.original))
    return rows


def block_tables(items: list[Item]) -> Array:
    """[B, W] int32: the blocks of each sequence in order, and zeros behind them."""
    width = max(len(item.blocks) for item in items)
    tables = np.zeros((len(items), width), dtype=np.int32)
    for row, item in zip(tables, items, strict=True):
        row[: len(item.blocks)] = item.blocks
    return tables


def _rows_of_adapters(items: list[Item], starts: np.ndarray) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {}
    for item, start, end in zip(items, starts, starts[1:], strict=False):
        if item.adapter:
            rows.setdefault(item.adapter, []).append(np.arange(start, end, dtype=np.int64))
    return {name: np.concatenate(parts) for name, parts in rows.items()}
