"""Attention with linear biases (ALiBi, Press et al. 2022)."""

import torch
from torch import Tensor


def alibi_slopes(num_heads: int) -> Tensor:
    """How much each head's logits fall with every token of distance, [num_heads] float32.

    A geometric series for the largest power of two of heads; the heads beyond it take every other slope of the series
    for twice as many (section 3 of the paper, and its authors' code for other numbers of heads).
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-4 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return torch.tensor([*slopes, *between], dtype=torch.float32)
