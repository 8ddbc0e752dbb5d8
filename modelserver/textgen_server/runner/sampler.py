"""From logits to tokens. Rank 0 only.

Order, as in TGI: repetition penalty, frequency penalty, temperature, top-k, top-p, typical-p, log-softmax, choice.

A draw needs one uniform number, a hash of the request's seed and of how many tokens it has generated, and takes the
token at that point of the cumulative distribution. So a request draws the same numbers alone or in a batch, before or
after a preemption, on the CPU or on a GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from textgen_server.engine.plan import Sample
from textgen_server.sampling import SamplingParams

NEVER = float("-inf")


def sample(logits: Tensor, samples: Sequence[Sample]) -> tuple[list[int], list[float]]:
    """Choose one token per row of `logits` [N, vocab].

    Returns:
        The tokens, and their natural log-probabilities after penalties, temperature and filters.
    """
    logits = logits.float()
    shaped = [row for row, s in enumerate(samples) if not s.params.is_plain]
    if shaped:
        logits = _shape(logits, shaped, samples)
    chosen = logits.argmax(-1)
    drawn = [row for row, s in enumerate(samples) if not s.params.greedy]
    if drawn:
        chosen = chosen.clone()
        chosen[drawn] = _draw(logits[drawn], [samples[row] for row in drawn])
    logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
    return chosen.tolist(), logprobs.tolist()


def _shape(logits: Tensor, rows: list[int], samples: Sequence[Sample]) -> Tensor:
    """Apply what the parameters of `rows` ask for; the other rows stay as they are."""
    z = logits[rows]
    params = [samples[row].params for row in rows]
    for index, row in enumerate(rows):
        history = samples[row].history
        if history is not None:
            z[index] = _penalize(z[index], params[index], history)
    z /= _column([p.temperature for p in params], z)
    if any(p.top_k for p in params):
        z = _top_k(z, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        z = _top_p(z, [p.top_p for p in params])
    if any(p.typical_p < 1 for p in params):
        z = _typical(z, [p.typical_p for p in params])
    if len(rows) == len(samples):
        return z
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), z)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _penalize(z: Tensor, params: SamplingParams, history: list[int]) -> Tensor:
    """Repetition (CTRL) and frequency penalty on one row [vocab], over prompt and output."""
    tokens, counts = torch.tensor(history, device=z.device).unique(return_counts=True)
    seen = z[tokens]
    penalty = params.repetition_penalty
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    seen -= params.frequency_penalty * counts / len(history)
    return z.index_copy(0, tokens, seen)


def _top_k(z: Tensor, ks: list[int]) -> Tensor:
    """Keep the k largest of each row, ties of the k-th included; k of 0, or more than there are, keeps all."""
    vocab = z.shape[-1]
    kept = [min(k, vocab) if k else vocab for k in ks]
    largest = max((k for k in kept if k < vocab), default=0)
    if not largest:
        return z
    best = z.topk(largest, dim=-1).values
    rank = torch.tensor([min(k, largest) - 1 for k in kept], device=z.device)[:, None]
    limits = best.gather(-1, rank)
    unlimited = torch.tensor([k == vocab for k in kept], device=z.device)[:, None]
    return z.masked_fill((z < limits) & ~unlimited, NEVER)


def _top_p(z: Tensor, ps: list[float]) -> Tensor:
    """Drop the unlikeliest tokens whose mass together is at most 1 - p; the likeliest always stays."""
    ordered, order = z.sort(dim=-1)
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - _column(ps, z)
    drop[:, -1] = False
    return z.masked_fill(_unsort(drop, order), NEVER)


def _typical(z: Tensor, ps: list[float]) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy until their mass reaches p, at least one."""
    logprobs = z.log_softmax(-1)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).nan_to_num(nan=0.0).sum(-1, keepdim=True)
    order = (-logprobs - entropy).abs().sort(dim=-1).indices
    mass_before = probs.gather(-1, order).cumsum(-1) - probs.gather(-1, order)
    drop = mass_before >= _column(ps, z)
    drop[:, 0] = False
    return z.masked_fill(_unsort(drop, order), NEVER)


def _unsort(flags: Tensor, order: Tensor) -> Tensor:
    return torch.zeros_like(flags).scatter(-1, order, flags)


def _draw(z: Tensor, samples: list[Sample]) -> Tensor:
    """One token per row by inverse transform sampling."""
    cumulative = z.softmax(-1, dtype=torch.float64).cumsum(-1)
    points = [uniform(s.params.seed, s.position) for s in samples]
    targets = torch.tensor(points, dtype=torch.float64, device=z.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=z.shape[-1] - 1)


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that a request with `seed` draws for its token number `position`: SplitMix64 (Steele et al.
    2014) over both."""
    mask = (1 << 64) - 1
    x = _mix((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask)
    x = _mix((x + position * 0x9E3779B97F4A7C15) & mask)
    return (x >> 11) / float(1 << 53)


def _mix(x: int) -> int:
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
