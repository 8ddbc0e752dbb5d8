"""From logits to tokens. Rank 0 only.

Order, as in TGI: watermark, repetition penalty, frequency penalty (then OpenAI's penalties and bias), grammar,
temperature, top-k, top-p, typical-p, log-softmax, choice.

A draw has a random number for each token: a hash of the request's seed, of how many tokens it has generated, and of the
token. So a request draws the same alone or in a batch, before or after a preemption, on the CPU or on a GPU. Its logits
differ by rounding from one batch to another, and only where two tokens are as good as equal does the draw follow; the
point of a cumulative distribution at one random number would fall beside another token some hundred times as often.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from textgen_server.engine.plan import Masks, Sample, Scores, StepResult, Tops
from textgen_server.hashing import mix32
from textgen_server.sampling import SamplingParams
from textgen_server.watermark import PUBLIC, Watermark

NEVER = float("-inf")
NUMBERS_AT_ONCE = 1 << 22
"""Random numbers are made for so many places at a time: 34 MB of 64 bits each."""


def masks_of(samples: Sequence[Sample], vocab_size: int) -> Masks | None:
    """What the grammars among `samples` allow, a row for each that has one; None where none has."""
    constraints = [s.constraint for s in samples if s.constraint is not None]
    if not constraints:
        return None
    masks = np.zeros((len(constraints), -(-vocab_size // 32)), dtype=np.int32)
    constraints[0].fill_masks(constraints, masks)
    return masks


def sample(
    logits: Tensor, samples: Sequence[Sample], masks: Masks | None = None, watermark: Watermark = PUBLIC
) -> StepResult:
    """Choose one token per row of `logits` [N, vocab].

    Args:
        masks: see `masks_of`.
        watermark: of the rows that ask for it.

    Returns:
        The tokens; their natural log-probabilities and, where asked for, those of the likeliest tokens, after
        penalties, grammar, temperature and filters, or of the logits as they came (`raw_logprobs`).
    """
    logits = logits.float()
    shaped = [row for row, s in enumerate(samples) if s.constraint is not None or not s.params.is_plain]
    final = _shape(logits, shaped, samples, masks, watermark) if shaped else logits
    chosen = final.argmax(-1)
    drawn = [row for row, s in enumerate(samples) if not s.params.greedy]
    if drawn:
        chosen = chosen.clone()
        chosen[drawn] = _draw(final[drawn], [samples[row] for row in drawn])
    raw = [row for row in shaped if samples[row].params.raw_logprobs]
    if raw:
        final = final.index_copy(0, torch.tensor(raw, device=logits.device), logits[raw])
    logprobs = final.gather(-1, chosen[:, None])[:, 0] - final.logsumexp(-1)
    return StepResult(chosen.tolist(), logprobs.tolist(), _tops(final, [s.params.top_tokens for s in samples]))


def score(logits: Tensor, targets: Tensor, top: int) -> Scores:
    """Log-probabilities of given tokens.

    Args:
        logits: [N, vocab].
        targets: [N] int64, one token per row.
        top: how many of the likeliest tokens of each row are wanted.
    """
    logits = logits.float()
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    return Scores(logprobs.tolist(), _tops(logits, [top] * len(targets)))


def _tops(logits: Tensor, counts: list[int]) -> list[Tops]:
    """For each row so many of its likeliest tokens; those that cannot come are left out. Empty where nobody asks."""
    most = min(max(counts, default=0), logits.shape[-1])
    if not most:
        return []
    best = logits.topk(most, dim=-1)
    logprobs = (best.values - logits.logsumexp(-1, keepdim=True)).tolist()
    return [
        tuple((token, logprob) for token, logprob in zip(tokens[:count], row[:count], strict=True) if logprob > NEVER)
        for tokens, row, count in zip(best.indices.tolist(), logprobs, counts, strict=True)
    ]


def _shape(
    logits: Tensor, rows: list[int], samples: Sequence[Sample], masks: Masks | None, watermark: Watermark
) -> Tensor:
    """Apply what the parameters of `rows` ask for; the other rows stay as they are."""
    z = logits[rows]
    chosen = [samples[row] for row in rows]
    params = [s.params for s in chosen]
    if any(p.watermark for p in params):
        z = _mark(z, chosen, watermark)
    for index, s in enumerate(chosen):
        if s.history is not None:
            z[index] = _penalize(z[index], s.params, s.history, s.position)
        if s.params.logit_bias:
            tokens, biases = zip(*s.params.logit_bias, strict=True)
            z[index, list(tokens)] += torch.tensor(biases, device=z.device)
    if masks is not None:
        z = _constrain(z, [row for row, s in enumerate(chosen) if s.constraint is not None], masks)
    z /= _column([p.temperature for p in params], z)
    if any(p.top_k for p in params):
        z = _top_k(z, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        z = _top_p(z, [p.top_p for p in params])
    if any(p.typical_p < 1 for p in params):
        z = _typical(z, [p.typical_p for p in params])
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), z)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _penalize(z: Tensor, params: SamplingParams, history: list[int], generated: int) -> Tensor:
    """Penalties on one row [vocab]: repetition (CTRL) and TGI's frequency over prompt and output, OpenAI's over the
    output, which is the last `generated` tokens of `history`."""
    tokens, counts = torch.tensor(history, device=z.device).unique(return_counts=True)
    seen = z[tokens]
    penalty = params.repetition_penalty
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    seen -= params.frequency_penalty * counts / len(history)
    z = z.index_copy(0, tokens, seen)
    if generated and (params.count_penalty or params.presence_penalty):
        tokens, counts = torch.tensor(history[-generated:], device=z.device).unique(return_counts=True)
        z = z.index_copy(0, tokens, z[tokens] - params.count_penalty * counts - params.presence_penalty)
    return z


def _mark(z: Tensor, samples: Sequence[Sample], watermark: Watermark) -> Tensor:
    """Raise the logits of the green list in the rows that ask for it."""
    rows = torch.tensor([row for row, s in enumerate(samples) if s.params.watermark], device=z.device)
    previous = torch.tensor([s.previous for s in samples if s.params.watermark], device=z.device)
    green = watermark.is_green(previous[:, None], torch.arange(z.shape[-1], device=z.device))
    return z.index_copy(0, rows, z[rows] + watermark.delta * green)


def _constrain(z: Tensor, rows: list[int], masks: Masks) -> Tensor:
    """Rule out what the grammars of `rows` do not let follow; a row that would have nothing left stays as it is."""
    words = torch.from_numpy(masks).to(z.device, non_blocking=True)
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=z.device)) & 1
    allowed = bits.bool().flatten(1)[:, : z.shape[-1]]
    allowed |= ~allowed.any(-1, keepdim=True)
    index = torch.tensor(rows, device=z.device)
    return z.index_copy(0, index, z[index].masked_fill(~allowed, NEVER))


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
    """One token per row, by the Gumbel-max trick: of z_t - log(E_t) with E exponentially distributed, the largest is at
    token t with probability softmax(z)_t."""
    tokens = mix32(torch.arange(z.shape[-1], device=z.device))
    seeds = torch.tensor([_seed(s.params.seed, s.position) for s in samples], device=z.device)
    rows = max(1, NUMBERS_AT_ONCE // z.shape[-1])
    parts = zip(z.split(rows), seeds.split(rows), strict=True)
    return torch.cat([(part - exponential(mix32(seed[:, None] ^ tokens)).log()).argmax(-1) for part, seed in parts])


def exponential(numbers: Tensor) -> Tensor:
    """Standard exponential numbers in float32, above 0 and finite, of even ones in [0, 2^32). Exact where it matters,
    near 0."""
    even = ((numbers.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    return even.neg_().log1p_().neg_()


def _seed(seed: int, position: int) -> int:
    """32 bits of SplitMix64 (Steele et al. 2014) over a request's seed and its token's number."""
    mask = (1 << 64) - 1
    x = _mix((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask)
    return _mix((x + position * 0x9E3779B97F4A7C15) & mask) >> 32


def _mix(x: int) -> int:
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
