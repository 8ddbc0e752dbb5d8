"""GPTQ (Frantar et al. 2022): rounding a matrix so that what it does to typical inputs changes little.

Input features are rounded one after another. What a rounded one gets wrong is made good by those that follow, by the
inverse of the Hessian of the squared error, which is X^T X over the inputs X. Used by calibrated.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.grouped import Grouped

# Features whose errors are gathered before the features behind them learn of them (section 3.3, "lazy batch updates").
_TOGETHER = 128
# The least scale that float16 can hold.
_LEAST_SCALE = 2.0**-24


@dataclass(frozen=True)
class Rounding:
    """What to round to.

    Attributes:
        bits: width of a code.
        group_size: input features that share a scale and a zero; -1 for all.
        act_order: take the features in the order of their strength (largest diagonal of the Hessian first).
        symmetric: the zero is in the middle of the codes.
        damping: added to the Hessian's diagonal, as a share of its mean.
    """

    bits: int
    group_size: int
    act_order: bool
    symmetric: bool
    damping: float

    def grid(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and zeros, float32 [out], for the values of one group, [n, out]. Zeros are 1 at least: files have them
        less one, and programs differ in what they make of a zero of 0."""
        largest = 2**self.bits - 1
        low, high = weights.amin(0).clamp(max=0), weights.amax(0).clamp(min=0)
        if self.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scales = ((high - low) / largest).clamp(min=_LEAST_SCALE).half().float()
        if self.symmetric:
            return scales, torch.full_like(scales, (largest + 1) // 2)
        return scales, (-low / scales).round().clamp(1, largest)


def round_matrix(weight: Tensor, hessian: Tensor, how: Rounding, name: str) -> Grouped:
    """Round a matrix.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in], X^T X of the inputs X [tokens, in], times any number.
        name: the matrix's, for complaints.

    Returns:
        codes, scales (float16) and zeros on the matrix's device.

    Raises:
        CheckpointError: an input or a weight is no finite number.
    """
    size = len(hessian)
    order = hessian.diag().argsort(descending=True) if how.act_order else torch.arange(size, device=hessian.device)
    factor = _inverse_factor(hessian[order][:, order], how.damping, name)
    codes, scales, zeros = _round_in_order(weight.t()[order].contiguous(), factor, how)
    group_size = size if how.group_size == -1 else how.group_size
    in_place, groups = torch.empty_like(codes), torch.empty_like(order)
    in_place[order] = codes
    groups[order] = torch.arange(size, device=order.device) // group_size
    return Grouped(in_place, scales.half(), zeros.to(torch.uint8), groups, how.bits)


def _round_in_order(weights: Tensor, factor: Tensor, how: Rounding) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of `weights` [in, out], which is used up, and each group's scales and zeros."""
    size, largest = len(weights), 2**how.bits - 1
    codes = torch.empty_like(weights, dtype=torch.uint8)
    grids = [how.grid(weights)] if how.group_size == -1 else []
    # A group begins where the features before it have told it all of their errors.
    step = _TOGETHER if how.group_size == -1 else how.group_size * max(1, _TOGETHER // how.group_size)
    for start in range(0, size, step):
        block = weights[start : start + step]
        errors = torch.empty_like(block)
        for index, row in enumerate(block):
            feature = start + index
            if how.group_size != -1 and feature % how.group_size == 0:
                grids.append(how.grid(block[index : index + how.group_size]))
            scales, zeros = grids[-1]
            code = (row / scales).round_().add_(zeros).clamp_(0, largest)
            codes[feature] = code
            errors[index] = (row - (code - zeros) * scales) / factor[feature, feature]
            block[index + 1 :].addr_(factor[feature, feature + 1 : start + len(block)], errors[index], alpha=-1)
        end = start + len(block)
        weights[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return codes, torch.stack([scales for scales, _ in grids]), torch.stack([zeros for _, zeros in grids])


def _inverse_factor(hessian: Tensor, damping: float, name: str) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian, damped more while float32 does not suffice."""
    mean = hessian.diag().mean().item()
    while damping < 1e3:
        # Experts that no text has reached have no Hessian: theirs becomes the identity, and they are rounded as usual.
        damped = hessian + torch.eye(len(hessian), device=hessian.device) * (damping * mean if mean else 1.0)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damping *= 10
    raise CheckpointError(f"{name} cannot be quantized: the model computes numbers there that are not finite")
