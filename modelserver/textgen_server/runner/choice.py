"""The choice of a token from shaped logits: the likeliest, or a draw. Called by the sampler, and in captured steps.

Everything is a tensor, and what is launched depends on shapes alone, so that a CUDA graph can replay it.

A draw has a random number for each token: a hash of the request's seed, of how many tokens it has generated, and of the
token. So a request draws the same alone or in a batch, before or after a preemption, on the CPU or on a GPU. Its logits
differ by rounding from one batch to another, and only where two tokens are as good as equal does the draw follow; the
point of a cumulative distribution at one random number would fall beside another token some hundred times as often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgen_server.engine.plan import Sample
from textgen_server.hashing import mix32
from textgen_server.layers import fused
from textgen_server.native import ops

NUMBERS_AT_ONCE = 1 << 22
"""Random numbers are made for so many places at a time: 34 MB of 64 bits each."""

Seeds = np.ndarray[Any, np.dtype[np.int64]]


PLACES = 4096
"""Logits that a kernel looks at at once."""


class Choice(Enum):
    """The most that any row of a step asks for."""

    LIKELIEST = auto()
    DRAWN = auto()
    """By a temperature."""
    FILTERED = auto()
    """By temperature, top-k and top-p."""


@dataclass(frozen=True)
class Wishes:
    """How each of N rows is chosen.

    Attributes:
        temperatures: [N] float32.
        drawn: [N] uint8, 1 where a token is drawn, 0 where it is the likeliest.
        raw: [N] uint8, 1 where log-probabilities of the logits as they came are reported.
        seeds: [N] int64 of `seeds_of`.
        top_ks: [N] int32, 0 for all.
        top_ps: [N] float32, 1 for all.
    """

    temperatures: Tensor
    drawn: Tensor
    raw: Tensor
    seeds: Tensor
    top_ks: Tensor
    top_ps: Tensor


def choices_for(rows: Tensor) -> tuple[Choice, ...]:
    """What `choose` can do with logits that are where `rows` are."""
    return tuple(Choice) if fused.fit(rows) else (Choice.LIKELIEST, Choice.DRAWN)


def choose(logits: Tensor, choice: Choice, wishes: Wishes, tokens: Tensor, logprobs: Tensor) -> None:
    """Write a token for each row of `logits` [N, vocab] into `tokens` [N] int64, and its log-probability into
    `logprobs` [N] float32. Of `wishes` only those count that are `choice`'s."""
    if fused.fit(logits):
        _launch(logits, choice, wishes, tokens, logprobs)
        return
    z = logits.float()
    if choice is Choice.LIKELIEST:
        chosen = z.argmax(-1)
    else:
        shaped = z / wishes.temperatures[:, None]
        chosen = torch.where(wishes.drawn > 0, draw(shaped, wishes.seeds), shaped.argmax(-1))
        z = torch.where(wishes.raw[:, None] > 0, z, shaped)
    tokens.copy_(chosen)
    logprobs.copy_(logprobs_of(z, chosen))


def _launch(logits: Tensor, choice: Choice, wishes: Wishes, tokens: Tensor, logprobs: Tensor) -> None:
    from textgen_server.runner import choice_kernels as kernels

    rows, vocab = logits.shape
    kernels.choose[(rows,)](
        logits,
        wishes.temperatures,
        wishes.raw,
        wishes.drawn,
        wishes.seeds,
        wishes.top_ks,
        wishes.top_ps,
        tokens,
        logprobs,
        logits.stride(0),
        vocab,
        DRAWS=choice is not Choice.LIKELIEST,
        FILTERS=choice is Choice.FILTERED,
        PLACES=PLACES,
        num_warps=16,
    )


def draw(z: Tensor, seeds: Tensor) -> Tensor:
    """One token per row of z [N, vocab], by the Gumbel-max trick: of z_t - log(E_t) with E exponentially distributed,
    the largest is at token t with probability softmax(z)_t. `seeds` [N] int64 as `seeds_of` gives them."""
    tokens = mix32(torch.arange(z.shape[-1], device=z.device))
    rows = max(1, NUMBERS_AT_ONCE // z.shape[-1])
    parts = zip(z.split(rows), seeds.split(rows), strict=True)
    return torch.cat([(part - exponential(mix32(seed[:, None] ^ tokens)).log()).argmax(-1) for part, seed in parts])


def likeliest(z: Tensor) -> Tensor:
    """The largest of each row of z [N, vocab], [N] int64."""
    return ops.argmax(z) if ops.fit(z) else z.argmax(-1)


def logprobs_of(z: Tensor, chosen: Tensor) -> Tensor:
    """Natural log-probabilities [N] float32 of the tokens chosen [N] int64 from logits z [N, vocab] float32."""
    return z.gather(-1, chosen[:, None])[:, 0] - log_sum_exp(z)


def log_sum_exp(z: Tensor) -> Tensor:
    """Of each row of z [N, vocab] float32, [N]. The one way to normalize, so that a token has one log-probability."""
    return ops.log_sum_exp(z) if ops.fit(z) else z.logsumexp(-1)


def exponential(numbers: Tensor) -> Tensor:
    """Standard exponential numbers in float32, above 0 and finite, of even ones in [0, 2^32). Exact where it matters,
    near 0."""
    even = ((numbers.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    return even.neg_().log1p_().neg_()


def seeds_of(samples: Sequence[Sample]) -> Seeds:
    """[N]: of each choice, 32 bits of SplitMix64 (Steele et al. 2014) over its seed and how many tokens came before."""
    seeds = np.array([s.params.seed & _MASK for s in samples], dtype=np.uint64)
    positions = np.array([s.position for s in samples], dtype=np.uint64)
    x = _mix(seeds * _GOLDEN + np.uint64(0x632BE59BD9B4E019))
    return (_mix(x + positions * _GOLDEN) >> np.uint64(32)).astype(np.int64)


_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
