"""Every layout of query, key and value gives a rank the rows of its heads, whatever the numbers of heads and ranks."""

import pytest
import torch

from textgen_server.layers import qkv
from textgen_server.layers.partition import Heads
from textgen_server.parallel import Group

DIM = 3
each_share = pytest.mark.parametrize("size", [1, 2, 3, 4])
each_model = pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (6, 2), (5, 1), (8, 4), (71, 1)])


def rows_of(pieces: list[tuple[str, int, int]]) -> list[int]:
    return [row for _, start, length in pieces for row in range(start, start + length)]


def own(rows: torch.Tensor, start: int, count: int) -> list[int]:
    """`rows` [heads, DIM]: those of `count` heads."""
    assert rows.shape[1] == DIM
    return rows[start : start + count].flatten().tolist()


@each_share
@each_model
def test_interleaved_groups(heads: int, kv_heads: int, size: int) -> None:
    groups = torch.arange((heads + 2 * kv_heads) * DIM).view(kv_heads, -1, DIM)
    q, k, v = groups[:, :-2].reshape(heads, DIM), groups[:, -2], groups[:, -1]
    for rank in range(size):
        mine = Heads.of(heads, kv_heads, Group(rank, size))
        expected = own(q, mine.q_start, mine.q_count)
        expected += own(k, mine.kv_start, mine.kv_count) + own(v, mine.kv_start, mine.kv_count)
        assert rows_of(qkv.grouped("x", mine, DIM, heads, kv_heads)) == expected


@each_share
@each_model
def test_one_behind_the_other(heads: int, kv_heads: int, size: int) -> None:
    rows = torch.arange((heads + 2 * kv_heads) * DIM).view(-1, DIM)
    q, k, v = rows.split([heads, kv_heads, kv_heads])
    for rank in range(size):
        mine = Heads.of(heads, kv_heads, Group(rank, size))
        expected = own(q, mine.q_start, mine.q_count)
        expected += own(k, mine.kv_start, mine.kv_count) + own(v, mine.kv_start, mine.kv_count)
        assert rows_of(qkv.stacked("x", mine, DIM, heads, kv_heads)) == expected


def test_multi_query_rows_are_few_pieces() -> None:
    """A piece for each head would be as many copies to the device."""
    assert qkv.grouped("x", Heads.of(71, 1, Group()), 64, 71, 1) == [
        ("x", 0, 71 * 64), ("x", 71 * 64, 64), ("x", 72 * 64, 64),
    ]  # fmt: skip
