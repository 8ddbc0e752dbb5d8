"""The pools that keys and values are kept in."""

import os
from pathlib import Path

import pytest
import torch

from textgen_server.attention.reference import ReferenceAttention
from textgen_server.models.base import CacheSpec
from textgen_server.runner.kv_cache import CacheLayout


def layout(dtype: torch.dtype = torch.float32) -> CacheLayout:
    return CacheLayout(CacheSpec(2, 4, 16), 8, dtype, ReferenceAttention)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_pool_holds_zeros_of_its_type_and_keeps_what_is_written(dtype: torch.dtype) -> None:
    pools = [pool for cache in layout(dtype).allocate(5, torch.device("cpu")) for pool in (cache.keys, cache.values)]

    assert len(pools) == 4
    for number, pool in enumerate(pools):
        assert (pool.dtype, pool.shape[0], pool.any().item()) == (dtype, 5, False)
        pool[3] = number + 1
    assert [pool.float().sum(0).unique().tolist() for pool in pools] == [[1], [2], [3], [4]]


def test_main_memory_is_taken_when_it_is_written_to() -> None:
    before = resident_bytes()
    blocks = (1 << 30) // layout().block_bytes
    caches = layout().allocate(blocks, torch.device("cpu"))

    assert sum(cache.keys.nbytes + cache.values.nbytes for cache in caches) == blocks * layout().block_bytes
    assert resident_bytes() - before < 1 << 29
