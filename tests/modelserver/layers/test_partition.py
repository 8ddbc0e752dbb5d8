"""How layers are shared out over ranks."""

import pytest

from textgen_server.layers.partition import Heads, partition
from textgen_server.parallel import Group


@pytest.mark.parametrize(("total", "size"), [(8, 2), (9, 2), (7, 3), (3, 3), (49152, 5)])
def test_the_shares_cover_everything_once(total: int, size: int):
    shares = [partition(total, Group(rank, size)) for rank in range(size)]
    assert [start for start, _ in shares] == [sum(n for _, n in shares[:rank]) for rank in range(size)]
    assert sum(length for _, length in shares) == total
    assert max(n for _, n in shares) - min(n for _, n in shares) <= 1


def test_more_ranks_than_things_is_an_error():
    with pytest.raises(ValueError, match="3 cannot be shared by 4"):
        partition(3, Group(0, 4))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (9, 3), (8, 2), (71, 1), (32, 8), (12, 4)])
def test_every_query_head_is_on_one_rank_with_its_kv_head(heads: int, kv_heads: int, size: int):
    ranks = [Heads.of(heads, kv_heads, Group(rank, size)) for rank in range(size)]
    owned = [head for r in ranks for head in range(r.q_start, r.q_start + r.q_count)]
    assert owned == list(range(heads))
    for r in ranks:
        assert r.q_count % r.kv_count == 0
        per_kv_here = r.q_count // r.kv_count
        for index in range(r.q_count):
            wanted = (r.q_start + index) // (heads // kv_heads)
            assert r.kv_start + index // per_kv_here == wanted
