"""What is particular to the Triton backend: splits, grids from shapes alone, and that its kernels compile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import Case, PagedRun, spec
from compiled_kernels import compiled

from textgen_server.layers.rotary import rotate

triton = pytest.importorskip("textgen_server.attention.triton")

# Compiled, float32 products are three of TF32.
TOLERANCE = 1e-4 if torch.cuda.is_available() else 2e-5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LONG_DECODES = Case("long decodes", spec(3, 1, 256), (1, 1, 1), (130, 2, 70))


@pytest.mark.parametrize(
    ("processors", "window", "queries"),
    [(1, None, (1, 1, 1)), (1000, None, (1, 1, 1)), (1000, 90, (1, 1, 1)), (1000, 90, (1, 5, 2))],
)
def test_splitting_the_keys_changes_nothing(
    processors: int, window: int | None, queries: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_processors", lambda device: processors)
    case = replace(LONG_DECODES, spec=replace(LONG_DECODES.spec, window=window), queries=queries)
    run = PagedRun(case, DEVICE, torch.float32)
    torch.testing.assert_close(run.attended_by(triton.TritonAttention), run.expected(), rtol=TOLERANCE, atol=TOLERANCE)


def test_few_long_decodes_may_be_split_and_short_ones_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_processors", lambda device: 4)
    layer = triton.TritonAttention(LONG_DECODES.spec)
    longer = PagedRun(replace(LONG_DECODES, cached=(1023, 2, 70)), DEVICE, torch.float32)
    keys, _ = longer.pools(triton.TritonAttention)
    assert [layer._most_splits(count, keys, longer.step) for count in (1, 3, 300)] == [32, 16, 4]
    short = PagedRun(Case("short decodes", LONG_DECODES.spec, (1, 1), (20, 30)), DEVICE, torch.float32)
    assert layer._most_splits(2, keys, short.step) == 1


class Merges:
    """Stands where the kernel is that merges, and keeps what it gets."""

    def __init__(self) -> None:
        self.lse: list[torch.Tensor] = []

    def __getitem__(self, grid: tuple[int, ...]) -> "Merges":
        return self

    def __call__(self, parts: torch.Tensor, lse: torch.Tensor, out: torch.Tensor, **sizes: int) -> None:
        self.lse.append(lse)


def test_a_sequence_is_split_by_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9, 1 and 5 tiles of keys: two to a part or more, more where there are few processors."""
    for processors, parts in ((1000, [3, 1, 3]), (1, [3, 1, 2])):
        merges = Merges()
        monkeypatch.setattr(triton.kernels, "merge_splits", merges)
        monkeypatch.setattr(triton, "_processors", lambda device, count=processors: count)
        run = PagedRun(LONG_DECODES, DEVICE, torch.float32)
        run.attended_by(triton.TritonAttention)
        lse = merges.lse[-1][:, 0]
        assert (lse > float("-inf")).sum(1).tolist() == parts
        assert torch.isinf(lse).all(1).tolist() == [count == 1 for count in parts]


@pytest.mark.parametrize("rotary_dim", [64, 24], ids=["heads turn", "parts of heads turn"])
@pytest.mark.parametrize("queries", [(1, 1), (1, 5)], ids=["decodes", "decode and chunk"])
def test_turning_while_writing_is_turning_and_writing(rotary_dim: int, queries: tuple[int, ...]) -> None:
    run = PagedRun(Case("turning", spec(9, 3, 64), queries, (20, 3)), DEVICE, torch.float32)
    k, v = run.keys_and_values(run.step)
    angles = torch.rand(len(k), 1, rotary_dim // 2).repeat(1, 1, 2).to(DEVICE) * 6
    rotary = angles.cos(), angles.sin()
    pools, expected_pools = run.pools(triton.TritonAttention), run.pools(triton.TritonAttention)
    layer = triton.TritonAttention(run.case.spec)
    for own in (pools, expected_pools):
        run.generator.manual_seed(5)
        run.fill(layer, own)
    qkv = torch.cat([run.q, k, v], 1)  # as they come out of one matrix
    attended = layer.forward_turning(qkv[:, :9], qkv[:, 9:12], qkv[:, 12:], rotary, *pools, run.step)
    turned, keys = (rotate(t.clone(), *rotary) for t in (run.q, k))
    expected = layer.forward(turned, keys, v, *expected_pools, run.step)
    torch.testing.assert_close((attended, *pools), (expected, *expected_pools))


def test_a_step_can_be_replayed_with_other_lengths() -> None:
    """A CUDA graph keeps the host's lengths of the capture while lengths and slots on the device change."""
    run = PagedRun(LONG_DECODES, DEVICE, torch.float32)
    later = run.batch([1, 1, 1], [40, 3, 60], decodes=3)
    replayed = replace(run.step, context_lens=later.context_lens, slots=later.slots)
    attended = run.attended_by(triton.TritonAttention, replayed)
    torch.testing.assert_close(attended, run.expected(later), rtol=TOLERANCE, atol=TOLERANCE)


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Through ptxas to machine code, within the shared memory that a program may have on A10 and H100."""
    kernels = compiled(Path(__file__).with_name("compile_kernels.py"), tmp_path)
    assert kernels == {"write_cache", "attend", "merge_splits"}
