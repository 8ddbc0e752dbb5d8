"""Layers in the methods that quantize a checkpoint as it loads against the weights that they stand for, on the CPU."""

import gc

import pytest
import torch
from quantization_cases import (
    METHODS,
    SHAPES_OF_LAYERS,
    TOLERANCE,
    dequantized,
    distance,
    float8,
    make_layer,
    random_matrix,
)

from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.weights.loader import Part


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("shape", SHAPES_OF_LAYERS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_equals_its_dequantized_reference(method, shape, tmp_path):
    rows, columns, length = shape
    weights = [random_matrix(count, columns, seed) for seed, count in enumerate(rows)]
    bias, x = torch.arange(sum(rows)) / sum(rows), random_matrix(length, columns, 9) * 20
    layer = make_layer(method, weights, bias, tmp_path)
    expected = x @ torch.cat([dequantized(method, weight) for weight in weights]).t() + bias
    assert distance(layer(x), expected) < TOLERANCE[method]
    assert layer(x).shape == (length, sum(rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_computes_in_the_models_type(method, dtype, tmp_path):
    weight = random_matrix(64, 128, 0).to(dtype)
    x = (random_matrix(3, 128, 1) * 20).to(dtype)
    out = make_layer(method, [weight], None, tmp_path)(x)
    assert out.dtype == dtype
    assert distance(out, x.float() @ dequantized(method, weight).t()) < TOLERANCE[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_the_same_whatever_else_is_in_the_batch(method, tmp_path):
    layer = make_layer(method, [random_matrix(96, 192, 0)], None, tmp_path)
    x = random_matrix(40, 192, 1) * 20
    x[0, :50] = 30.0  # outliers for LLM.int8, in one row
    together = layer(x)
    for row in (0, 1, 39):
        torch.testing.assert_close(layer(x[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


def test_outliers_do_not_coarsen_the_other_values_of_their_row(tmp_path):
    weight = random_matrix(96, 192, 0)
    layer = make_layer("bitsandbytes", [weight], None, tmp_path)
    ordinary = random_matrix(3, 192, 1) * 20
    x = ordinary.clone()
    x[:, 7] = 1000.0
    reference = dequantized("bitsandbytes", weight)
    error = layer(x) - x @ reference.t()
    # With 1000 as the largest value of the row, all others would be rounded away, which makes this 1.
    assert error.norm() / (ordinary @ reference.t()).norm() < TOLERANCE["bitsandbytes"]


def test_rows_of_zeros_give_the_bias(tmp_path):
    bias = torch.arange(64.0)
    for method in METHODS:
        layer = make_layer(method, [torch.zeros(64, 64)], bias, tmp_path)
        torch.testing.assert_close(layer(torch.zeros(2, 64)), bias.expand(2, -1))
        torch.testing.assert_close(layer(torch.ones(2, 64)), bias.expand(2, -1))


def test_fp8_rounds_activations_by_rows_and_computes_exactly(tmp_path):
    weight, x = random_matrix(48, 100, 0), random_matrix(5, 100, 1) * torch.tensor([[1e-6], [1], [20], [3e4], [0]])
    out = make_layer("fp8", [weight], None, tmp_path)(x)
    for row, expected in zip(out[:4], float8(x) @ float8(weight).t(), strict=False):
        assert distance(row, expected) < 1e-5
    assert not out[4].any()


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_holds_its_quantized_weights_and_nothing_else(method, tmp_path):
    bytes_per_weight = QUANTIZATION_METHODS[method].bits / 8
    weight = random_matrix(1024, 512, 0)
    before = all_tensors()
    layer = make_layer(method, [weight], None, tmp_path)
    layer(random_matrix(1, 512, 1))
    known = {id(tensor) for tensor in before}
    held = sum(tensor.nbytes for tensor in all_tensors() if id(tensor) not in known)
    assert 0.9 * bytes_per_weight < held / weight.numel() < 1.02 * bytes_per_weight


def all_tensors() -> list[torch.Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]


@pytest.mark.parametrize("method", METHODS)
def test_a_share_of_the_rows_is_quantized_as_in_the_whole_matrix(method, tmp_path):
    weight, x = random_matrix(96, 100, 0), random_matrix(5, 100, 1) * 20
    whole = make_layer(method, [weight], None, tmp_path)(x)
    shares = [make_layer(method, [weight], None, tmp_path, [Part("0", 0, *at)])(x) for at in ((0, 37), (37, 59))]
    assert distance(torch.cat(shares, dim=-1), whole) < 0.005


@pytest.mark.parametrize("boundary", [128, 91])
@pytest.mark.parametrize("method", METHODS)
def test_shares_of_the_columns_add_up_to_the_whole(method, boundary, tmp_path):
    weight, x = random_matrix(96, 192, 0), random_matrix(5, 192, 1) * 20
    cuts = [(0, boundary), (boundary, 192 - boundary)]
    reference = sum(
        x[:, start : start + length] @ dequantized(method, weight[:, start : start + length]).t()
        for start, length in cuts
    )
    shares = [
        make_layer(method, [weight], None, tmp_path, [Part("0", 1, start, length)])(x[:, start : start + length])
        for start, length in cuts
    ]
    assert distance(sum(shares), reference) < TOLERANCE[method]
