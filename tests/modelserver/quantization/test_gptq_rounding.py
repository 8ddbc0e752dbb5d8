"""GPTQ's rounding of one matrix, against the paper's steps taken one by one."""

import pytest
import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.gptq_rounding import Rounding, round_matrix

SETTINGS = [(4, 16, False, True), (3, 7, False, False), (2, -1, True, False), (8, 32, True, True), (3, 200, True, True)]


def inputs(features: int) -> Tensor:
    """[tokens, features]: some strong, some weak, all correlated."""
    generator = torch.Generator().manual_seed(0)
    strength = torch.linspace(0.1, 2, features)[torch.randperm(features, generator=generator)]
    mixed = torch.randn(features, features, generator=generator) * strength[:, None]
    return torch.randn(500, features, generator=generator) @ mixed


def matrix(out: int, features: int) -> Tensor:
    return torch.randn(out, features, generator=torch.Generator().manual_seed(1)) * 0.05


def step_by_step(weight: Tensor, hessian: Tensor, how: Rounding) -> Tensor:
    """The values that the matrix is rounded to. One feature after another is fixed at its nearest value, and the free
    ones make good for it as the inverse of *their* Hessian says (equation 2 of the paper)."""
    weight, hessian = weight.double().clone(), hessian.double()
    hessian = hessian + torch.eye(len(hessian)) * how.damping * hessian.diag().mean()
    order = hessian.diag().argsort(descending=True) if how.act_order else torch.arange(len(hessian))
    size = len(order) if how.group_size == -1 else how.group_size
    for place, feature in enumerate(order):
        if place % size == 0:
            group = order[place : place + size]
            scale, zero = (tensor.double() for tensor in how.grid(weight[:, group].t().float()))
        free = order[place:]
        inverse = torch.linalg.inv(hessian[free][:, free])
        code = (weight[:, feature] / scale + zero).round().clamp(0, 2**how.bits - 1)
        error = weight[:, feature] - (code - zero) * scale
        weight[:, free] -= error[:, None] * inverse[0] / inverse[0, 0]
    return weight


@pytest.mark.parametrize(("bits", "group_size", "act_order", "symmetric"), SETTINGS)
def test_a_matrix_is_rounded_as_by_the_papers_steps(bits, group_size, act_order, symmetric):
    how = Rounding(bits, group_size, act_order, symmetric, 0.01)
    x, weight = inputs(40), matrix(24, 40)
    hessian = x.t() @ x

    rounded = round_matrix(weight, hessian, how, "w").dequantized()
    expected = step_by_step(weight, hessian, how).float()

    # Where a value lies in the middle of two codes, float32 and float64 may take different ones, and go on from there.
    same = (rounded - expected).abs().amax(1) < 1e-4
    assert same.float().mean() >= 0.9


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 32, 100, 300])
def test_what_a_matrix_does_to_its_inputs_changes_less_than_by_rounding_to_the_nearest(bits, group_size):
    x, weight = inputs(260), matrix(50, 260)
    how = Rounding(bits, group_size, False, True, 0.01)

    def error(hessian: Tensor) -> float:
        return float((x @ (round_matrix(weight, hessian, how, "w").dequantized() - weight).t()).norm())

    assert error(x.t() @ x) < 0.9 * error(torch.eye(260))


def test_a_matrix_that_no_text_has_reached_is_rounded_to_the_nearest():
    weight = matrix(8, 32)
    for symmetric in (True, False):
        how = Rounding(4, 8, True, symmetric, 0.01)
        rounded = round_matrix(weight, torch.zeros(32, 32), how, "w")
        assert (rounded.dequantized() - weight).abs().max() <= rounded.scales.max()
        assert rounded.zeros.min() >= 1


def test_numbers_that_are_not_finite_are_named():
    hessian = torch.full((8, 8), torch.nan)
    with pytest.raises(CheckpointError, match=r"model\.layers\.0 cannot be quantized: .* not finite"):
        round_matrix(matrix(4, 8), hessian, Rounding(4, 8, False, True, 0.01), "model.layers.0")
