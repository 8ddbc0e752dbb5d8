"""What requests' parameters make of their logits. Called by the sampler, for the rows that ask for something.

What the host knows reaches the device in copies that nothing waits for (transfer.py).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from textgen_server.engine.plan import Masks, Sample
from textgen_server.runner.transfer import to_device
from textgen_server.sampling import SamplingParams
from textgen_server.watermark import Watermark

NEVER = float("-inf")


def shape(z: Tensor, samples: Sequence[Sample], masks: Masks | None, watermark: Watermark) -> Tensor:
    """Apply what `samples` ask for to their logits z [N, vocab] float32, which may be changed."""
    params = [s.params for s in samples]
    if any(p.watermark for p in params):
        z = _mark(z, samples, watermark)
    for index, s in enumerate(samples):
        if s.history is not None:
            _penalize(z[index], s.params, s.history, s.position)
        if s.params.logit_bias:
            tokens, biases = zip(*s.params.logit_bias, strict=True)
            where, added = to_device([np.array(tokens, np.int64), np.array(biases, np.float32)], z.device)
            z[index].index_add_(0, where, added)
    if masks is not None:
        z = _constrain(z, [row for row, s in enumerate(samples) if s.constraint is not None], masks)
    z = z / _column([p.temperature for p in params], z)
    if any(p.top_k for p in params):
        z = _top_k(z, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        z = _top_p(z, [p.top_p for p in params])
    if any(p.typical_p < 1 for p in params):
        z = _typical(z, [p.typical_p for p in params])
    return z


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return to_device([np.array(values, np.float32)[:, None]], like.device)[0]


def _indices(*lists: Sequence[int], device: torch.device) -> list[Tensor]:
    return to_device([np.array(values, np.int64) for values in lists], device)


def _penalize(z: Tensor, params: SamplingParams, history: list[int], generated: int) -> None:
    """Penalties on one row [vocab], in place: repetition (CTRL) and TGI's frequency over prompt and output, OpenAI's
    over the output, which is the last `generated` tokens of `history`."""
    tokens, counts = to_device(np.unique(np.array(history, np.int64), return_counts=True), z.device)
    seen = z[tokens]
    penalty = params.repetition_penalty
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    seen -= params.frequency_penalty * counts / len(history)
    z.index_copy_(0, tokens, seen)
    if generated and (params.count_penalty or params.presence_penalty):
        output = np.array(history[-generated:], np.int64)
        tokens, counts = to_device(np.unique(output, return_counts=True), z.device)
        z.index_add_(0, tokens, -params.count_penalty * counts.to(z.dtype) - params.presence_penalty)


def _mark(z: Tensor, samples: Sequence[Sample], watermark: Watermark) -> Tensor:
    """Raise the logits of the green list in the rows that ask for it."""
    marked = [row for row, s in enumerate(samples) if s.params.watermark]
    rows, previous = _indices(marked, [samples[row].previous for row in marked], device=z.device)
    green = watermark.is_green(previous[:, None], torch.arange(z.shape[-1], device=z.device))
    return z.index_add(0, rows, watermark.delta * green)


def _constrain(z: Tensor, rows: list[int], masks: Masks) -> Tensor:
    """Rule out what the grammars of `rows` do not let follow; a row that would have nothing left stays as it is."""
    words, index = to_device([masks, np.array(rows, np.int64)], z.device)
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=z.device)) & 1
    allowed = bits.bool().flatten(1)[:, : z.shape[-1]]
    allowed |= ~allowed.any(-1, keepdim=True)
    return z.index_copy(0, index, z[index].masked_fill(~allowed, NEVER))


def _top_k(z: Tensor, ks: list[int]) -> Tensor:
    """Keep the k largest of each row, ties of the k-th included; k of 0, or more than there are, keeps all."""
    vocab = z.shape[-1]
    kept = [min(k, vocab) if k else vocab for k in ks]
    largest = max((k for k in kept if k < vocab), default=0)
    if not largest:
        return z
    best = z.topk(largest, dim=-1).values
    rank, unlimited = _indices([min(k, largest) - 1 for k in kept], [k == vocab for k in kept], device=z.device)
    limits = best.gather(-1, rank[:, None])
    return z.masked_fill((z < limits) & (unlimited[:, None] == 0), NEVER)


def _top_p(z: Tensor, ps: list[float]) -> Tensor:
    """Drop the unlikeliest tokens whose mass together is at most 1 - p; the likeliest always stays, and so do ties of
    what stays."""
    ordered = z.sort(dim=-1).values
    drop = ordered.softmax(-1).cumsum(-1) <= 1 - _column(ps, z)
    drop[:, -1] = False
    limits = ordered.masked_fill(drop, -NEVER).amin(-1, keepdim=True)
    return z.masked_fill(z < limits, NEVER)


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
