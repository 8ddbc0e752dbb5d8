"""Kernels between matrix products, in Triton's interpreter where there is no GPU, against torch's operators."""

from pathlib import Path

import pytest
import torch
from compiled_kernels import compiled
from harness import logits, make_runner
from shapes import SHAPES, save_checkpoint
from torch import Tensor

from textgen_server.layers import fused
from textgen_server.layers.norm import HeadNorm, OffsetRMSNorm, RMSNorm

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# A unit in the last place of numbers of each type, which sums in another order may differ by.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _kernels_take_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "fit", lambda *tensors: True)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", [RMSNorm, OffsetRMSNorm])
def test_a_norm_adds_and_normalizes_as_torch_does(kind: type[RMSNorm], dtype: torch.dtype) -> None:
    x, added, norm = random(5, 200, dtype=dtype), random(5, 200, dtype=dtype) * 3, kind(random(200, dtype=dtype), 1e-5)
    total, normed = norm.after((x, added))
    assert torch.equal(total, x + added)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(normed, norm._plain(x + added), rtol=tolerance, atol=tolerance)
    same, normed = norm.after((x, None))
    assert same is x
    torch.testing.assert_close(normed, norm._plain(x), rtol=tolerance, atol=tolerance)


def test_heads_are_normed_where_they_lie() -> None:
    """Queries and keys are parts of what one matrix made."""
    qkv = random(3, 7, 24)
    query, key = RMSNorm(random(24), 1e-6), RMSNorm(random(24) + 1, 1e-6)
    normed = HeadNorm(query, key, 4)(qkv[:, :6])
    expected = torch.cat([query._plain(qkv[:, :4]), key._plain(qkv[:, 4:6])], 1)
    torch.testing.assert_close(normed, expected)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gates_multiply_as_torch_does(dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * 1300, dtype=dtype) * 10
    gate, up = gate_up.chunk(2, -1)
    tolerance = TOLERANCE[dtype]
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(fused.silu_and_multiply(gate_up), expected, rtol=tolerance, atol=tolerance)


def test_a_model_has_the_same_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(next(iter(SHAPES["llama"].values())), tmp_path)
    runner = make_runner(tmp_path, device=DEVICE.type, dtype="float32")
    by_kernels = logits(runner, [5, 9, 77])
    monkeypatch.setattr(fused, "fit", lambda *tensors: False)
    torch.testing.assert_close(by_kernels, logits(runner, [5, 9, 77]), rtol=1e-4, atol=1e-4)


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    kernels = compiled(Path(__file__).with_name("compile_kernels.py"), tmp_path)
    assert kernels == {"add_and_normalize", "silu_and_multiply", "multiply_few_rows", "shrink", "expand"}
