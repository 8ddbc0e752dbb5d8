"""What is particular to the Triton backend: splits, grids from shapes alone, and that its kernels compile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import Case, PagedRun, spec
from compiled_kernels import compiled

triton = pytest.importorskip("textgen_server.attention.triton")

# Compiled, float32 products are three of TF32.
TOLERANCE = 1e-4 if torch.cuda.is_available() else 2e-5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LONG_DECODES = Case("long decodes", spec(3, 1, 256), (1, 1, 1), (130, 2, 70))


@pytest.mark.parametrize(("processors", "window"), [(1, None), (1000, None), (1000, 90)])
def test_splitting_the_keys_changes_nothing(
    processors: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "_processors", lambda device: processors)
    case = replace(LONG_DECODES, spec=replace(LONG_DECODES.spec, window=window))
    run = PagedRun(case, DEVICE, torch.float32)
    torch.testing.assert_close(run.attended_by(triton.TritonAttention), run.expected(), rtol=TOLERANCE, atol=TOLERANCE)


def test_few_long_decodes_are_split_and_many_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_processors", lambda device: 100)
    layer = triton.TritonAttention(LONG_DECODES.spec)
    run = PagedRun(LONG_DECODES, DEVICE, torch.float32)
    keys, _ = run.pools(triton.TritonAttention)
    assert layer._num_splits(3, keys, run.step) == 4
    assert layer._num_splits(300, keys, run.step) == 1
    short = PagedRun(Case("short decodes", LONG_DECODES.spec, (1, 1), (20, 30)), DEVICE, torch.float32)
    assert layer._num_splits(2, keys, short.step) == 1


def test_a_step_can_be_replayed_with_other_lengths() -> None:
    """A CUDA graph keeps the host's lengths of the capture while lengths and slots on the device change."""
    run = PagedRun(LONG_DECODES, DEVICE, torch.float32)
    later = run.batch([1, 1, 1], [40, 3, 60], decodes=3)
    replayed = replace(run.step, context_lens=later.context_lens, slots=later.slots)
    attended = run.attended_by(triton.TritonAttention, replayed)
    torch.testing.assert_close(attended, run.expected(later), rtol=TOLERANCE, atol=TOLERANCE)


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Through ptxas to machine code, within the shared memory that a program may have on A100 and H100."""
    kernels = compiled(Path(__file__).with_name("compile_kernels.py"), tmp_path)
    assert kernels == {"write_cache", "attend", "merge_splits"}
