"""Weights in numbers of 8 bits, whole or floating, with scales by output features or blocks: EETQ's, fp8's and those of
compressed-tensors. And how activations are rounded to meet them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The largest number of each type of code that a scale is chosen for; int8 stays symmetric.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


@dataclass(frozen=True)
class Rounding:
    """Activations are rounded to the weights' type of code before they are multiplied.

    Attributes:
        scale: what a code of one stands for; None where each row's own largest value says it (dynamic).
    """

    scale: float | None = None


@dataclass(frozen=True)
class Scaled:
    """A matrix [out, in] whose entry (n, k) is codes[n, k] * scales[n, (first + k) // group_size].

    Attributes:
        codes: int8 or float8_e4m3fn [out, in].
        scales: float32 [out, G].
        group_size: input features that share a scale.
        first: features that the first group has before those of the matrix, which may be a rank's share.
        rounding: of activations; None where they are multiplied as they are.
    """

    codes: Tensor
    scales: Tensor
    group_size: int
    first: int
    rounding: Rounding | None

    def dequantized(self) -> Tensor:
        """float32 [out, in]."""
        return as_float(self.codes) * spread(self.scales, self.group_size, self.first, self.codes.shape[1])


def spread(scales: Tensor, group_size: int, first: int, size: int) -> Tensor:
    """[rows, G] -> [rows, size], the scale of each of `size` features; [rows, 1] where they are all the same."""
    if scales.shape[1] == 1:
        return scales
    groups = torch.arange(first, first + size, device=scales.device) // group_size
    return scales[:, groups]


def as_float(codes: Tensor) -> Tensor:
    """What codes stand for, float32. Those that are no number become 480."""
    if codes.dtype != torch.float8_e4m3fn or codes.device.type != "cpu":
        return codes.float()
    # Three times as fast as torch's: sign, exponent and mantissa move to where float16 has them, and its exponents
    # begin 8 below.
    bits = (codes.view(torch.int8).to(torch.int16) << 7) & ~(1 << 14)
    return bits.view(torch.float16).float() * 256


def rounded(rows: Tensor, dtype: torch.dtype, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """The nearest codes of type `dtype`, and what a code of one stands for, float32 [..., 1]: `scale`, else what makes
    the largest code of each row its largest value."""
    largest = LARGEST[dtype]
    values = rows.float()
    if scale is None:
        scales = (values.abs().amax(-1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    else:
        scales = torch.full_like(values[..., :1], scale)
    codes = values / scales
    if dtype == torch.int8:
        return codes.round_().clamp_(-128, largest).to(dtype), scales
    return codes.clamp_(-largest, largest).to(dtype), scales


def rounded_in_groups(rows: Tensor, dtype: torch.dtype, group_size: int, first: int) -> Tensor:
    """What `rounded` makes of each row's groups of features, as the float32 that it stands for."""
    size = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (first, -(first + size) % group_size))
    codes, scales = rounded(padded.unflatten(-1, (-1, group_size)), dtype)
    return (as_float(codes) * scales).flatten(-2)[..., first : first + size]


def joined(blocks: Sequence[Scaled]) -> list[Scaled]:
    """Neighbours of one kind as one block. Static scales of activations may make others differ."""
    together: list[list[Scaled]] = []
    for block in blocks:
        if together and _kind(together[-1][0]) == _kind(block):
            together[-1].append(block)
        else:
            together.append([block])
    return [
        Scaled(
            torch.cat([block.codes for block in alike]),
            torch.cat([block.scales for block in alike]),
            alike[0].group_size,
            alike[0].first,
            alike[0].rounding,
        )
        for alike in together
    ]


def _kind(block: Scaled) -> tuple[object, ...]:
    return block.codes.dtype, block.group_size, block.first, block.rounding
