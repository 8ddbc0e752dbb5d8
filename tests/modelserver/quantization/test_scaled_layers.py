"""Layers over weights of 8 bits: each way to multiply against the one that is always right. Triton's kernels run in its
interpreter where there is no GPU."""

import pytest
import torch
from harness import logits, make_runner
from quantization_cases import distance
from shapes import SHAPES, save_checkpoint
from torch import Tensor

from textgen_server.quantization import as_it_loads
from textgen_server.quantization.scaled import Rounding, Scaled, joined, rounded
from textgen_server.quantization.scaled_linear import Dequantizing, Float8Product, Int8Product

scaled_triton = pytest.importorskip("textgen_server.quantization.scaled_triton")
rounding_triton = pytest.importorskip("textgen_server.quantization.rounding_triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = [torch.int8, torch.float8_e4m3fn]
# More than a tile, and no multiple of one.
OUT, SIZE = 72, 200


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def block(
    dtype: torch.dtype, group_size: int = SIZE, first: int = 0, rounding: Rounding | None = None, size: int = SIZE
) -> Scaled:
    codes, _ = rounded(random(OUT, size), dtype)
    groups = -(-(first + size) // group_size)
    return Scaled(codes, random(OUT, groups).abs() * 0.01 + 0.001, group_size, first, rounding)


@pytest.mark.parametrize("rows", [1, 20, 40], ids=["decode", "few rows", "many rows"])
@pytest.mark.parametrize(("group_size", "first"), [(SIZE, 0), (32, 0), (128, 100)], ids=["rows", "groups", "a share"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tiles_multiply_with_the_dequantized_matrix(dtype, group_size, first, rows):
    weights, x = block(dtype, group_size, first), random(rows, SIZE)
    out = scaled_triton.DequantizingTiles(weights)(x)
    torch.testing.assert_close(out, x @ weights.dequantized().t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_written_out_is_exactly_the_matrix(dtype):
    weights = block(dtype, 32, 7)
    written = scaled_triton.DequantizingTiles(weights).dequantized(torch.float32)
    assert torch.equal(written, weights.dequantized())


def test_every_code_of_float8_is_the_number_that_it_is():
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(torch.float8_e4m3fn)
    codes = codes[codes.float().isfinite()].repeat(16, 1)
    weights = Scaled(codes, torch.ones(16, 1, device=DEVICE), codes.shape[1], 0, None)
    assert torch.equal(weights.dequantized(), codes.float())
    assert torch.equal(scaled_triton.DequantizingTiles(weights).dequantized(torch.float32), codes.float())


@pytest.mark.parametrize("rounding", [Rounding(), Rounding(0.02)], ids=["dynamic", "static"])
def test_products_in_8_bits_are_those_of_what_the_codes_stand_for(rounding):
    x = random(3, 5, 208) * torch.tensor([1e-3, 1, 1, 10, 0], device=DEVICE)[:, None]
    if DEVICE.type == "cpu" or torch.cuda.get_device_capability() >= (8, 9):
        floats = block(torch.float8_e4m3fn, 208, rounding=rounding, size=208)
        # Its results are in bfloat16.
        assert distance(Float8Product(_padded(floats))(x)[..., :OUT], Dequantizing(floats)(x)) < 0.005
    whole = block(torch.int8, 208, rounding=rounding, size=208)
    assert distance(Int8Product(whole)(x), Dequantizing(whole)(x)) < 1e-5


def _padded(weights: Scaled) -> Scaled:
    """With rows to a multiple of 16."""
    missing = -OUT % 16
    codes = torch.cat([weights.codes, weights.codes[:missing]])
    scales = torch.cat([weights.scales, weights.scales[:missing]])
    return Scaled(codes, scales, weights.group_size, weights.first, weights.rounding)


@pytest.mark.parametrize("scale", [None, 0.01], ids=["dynamic", "static"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rounding_in_one_launch_is_the_same(dtype, scale):
    x = random(7, 1300) * torch.tensor([1e-3, 1, 1, 10, 0, 1e-30, 1e4], device=DEVICE)[:, None]
    x[1, :256] = torch.arange(256, device=DEVICE) / 2 * 0.01  # as near to one code as to the next
    codes, scales = rounding_triton.rounded(x, dtype, scale)
    expected, expected_scales = rounded(x, dtype, scale)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(codes.float(), expected.float())


def test_matrices_whose_activations_have_other_scales_are_kept_apart():
    parts = [block(torch.int8, rounding=Rounding(scale)) for scale in (0.1, 0.1, 0.2, 0.1)]
    assert [len(part.codes) for part in joined(parts)] == [2 * OUT, OUT, OUT]


@pytest.mark.parametrize("method", ["fp8", "eetq"])
def test_a_model_of_tiles_has_the_same_logits(method, tmp_path, monkeypatch):
    save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path)
    expected = logits(make_runner(tmp_path, device=DEVICE.type, dtype="float32", quantize=method), [5, 9, 77])
    # What is chosen on GPUs without products in float8.
    monkeypatch.setattr(as_it_loads, "scaled_layer", lambda block, device: scaled_triton.DequantizingTiles(block))
    runner = make_runner(tmp_path, device=DEVICE.type, dtype="float32", quantize=method)
    assert any(isinstance(module, scaled_triton.DequantizingTiles) for module in runner.loaded.model.modules())
    # Tiles do not round activations.
    assert distance(logits(runner, [5, 9, 77]), expected) < {"fp8": 0.1, "eetq": 1e-4}[method]
