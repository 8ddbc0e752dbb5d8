"""FlashAttention calls flash-attn as its documentation asks: a stand-in for the library checks and computes it.

The library itself needs a GPU; tests/gpu tries the real one.
"""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from attention_cases import Case, PagedRun, slopes, spec
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec, attend_reference


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    query_lens: list[int],
    contexts: list[int],
    block_table: Tensor,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
) -> Tensor:
    """What both functions compute over [num_blocks, page, kv_heads, head_dim] pools, and what both require."""
    assert causal
    assert window_size[1] in (-1, 0)
    assert k_cache.shape[1] % 256 == 0
    assert block_table.dtype == torch.int32
    assert block_table.shape[0] == len(query_lens)
    assert q.stride(-1) == 1
    assert alibi_slopes is None or alibi_slopes.dtype == torch.float32
    window = None if window_size[0] < 0 else window_size[0] + 1
    described = AttentionSpec(
        q.shape[1], k_cache.shape[2], q.shape[2], softmax_scale, window, alibi_slopes, softcap or None
    )
    starts = torch.tensor([0, *query_lens]).cumsum(0)
    lengths = torch.tensor(contexts)
    batch = AttentionBatch(
        0, starts, lengths, block_table, torch.empty(0), query_lens, contexts, block_size=k_cache.shape[1]
    )
    return attend_reference(described, q, k_cache, v_cache, batch)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, *, cache_seqlens: Tensor, block_table: Tensor, **options: object
) -> Tensor:
    assert q.dim() == 4
    assert cache_seqlens.dtype == torch.int32
    ones = [1] * len(q)
    return attend(q[:, 0], k_cache, v_cache, ones, cache_seqlens.tolist(), block_table, **options)[:, None]


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    block_table: Tensor,
    **options: object,
) -> Tensor:
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert cu_seqlens_q[-1] == len(q)
    query_lens, contexts = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert (max_seqlen_q, max_seqlen_k) == (max(query_lens), max(contexts))
    return attend(q, k, v, query_lens, contexts, block_table, **options)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Attention]]:
    library = ModuleType("flash_attn")
    library.flash_attn_with_kvcache = flash_attn_with_kvcache
    library.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", library)
    sys.modules.pop("textgen_server.attention.flash", None)
    yield importlib.import_module("textgen_server.attention.flash").FlashAttention
    sys.modules.pop("textgen_server.attention.flash", None)


@pytest.mark.parametrize(
    "case",
    [
        Case("decodes", spec(), (1, 1, 1), (300, 0, 255), block_size=256),
        Case("prompts", spec(), (5, 300), (0, 17), block_size=256),
        Case("both", spec(), (1, 1, 5, 40), (3, 256, 0, 300), block_size=256),
        Case("window", spec(window=30), (1, 1, 5, 40), (3, 256, 0, 300), block_size=256),
        Case("alibi", spec(alibi_slopes=slopes(6)), (1, 1, 5, 40), (3, 256, 0, 300), block_size=256),
        Case("softcap", spec(softcap=3.0), (1, 1, 5, 40), (3, 256, 0, 300), block_size=512),
    ],
    ids=lambda case: case.name,
)
def test_asks_the_library_for_what_the_reference_computes(backend: type[Attention], case: Case) -> None:
    run = PagedRun(case, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(run.attended_by(backend), run.expected(), rtol=1e-5, atol=1e-5)


def test_a_head_size_without_kernel_is_refused(backend: type[Attention]) -> None:
    assert [backend.obstacle(dim) for dim in (64, 80, 256)] == [None] * 3
    for dim in (12, 512):
        assert backend.obstacle(dim) == (
            f"takes heads of up to 256 features in multiples of 8, and this model's have {dim}"
        )
