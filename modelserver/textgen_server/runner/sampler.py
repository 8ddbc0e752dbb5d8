"""From logits to tokens. Rank 0 only.

Order, as in TGI: watermark, repetition penalty, frequency penalty (then OpenAI's penalties and bias), grammar,
temperature, top-k, top-p, typical-p (shaping.py), log-softmax, choice (choice.py).

Nothing here waits for the device: what was chosen is on its way to the host when these functions return.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from textgen_server.engine.plan import Masks, Sample, Scores, StepResult, Tops
from textgen_server.runner.choice import draw, likeliest, log_sum_exp, logprobs_of, seeds_of
from textgen_server.runner.shaping import NEVER, shape
from textgen_server.runner.transfer import ToHost, to_device
from textgen_server.watermark import PUBLIC, Watermark


@dataclass(frozen=True)
class Chosen:
    """What was chosen for N rows.

    Attributes:
        tokens: [N] int64, on the device.
        count: so many of the rows count, the first ones.
        arriving: the tokens and their log-probabilities [N], and where anybody asks for them the likeliest tokens and
            theirs [N, most].
        tops: how many of the likeliest tokens each row wants.
    """

    tokens: Tensor
    count: int
    arriving: ToHost
    tops: list[int]

    def read(self) -> StepResult:
        """Wait for the tokens; their natural log-probabilities and, where asked for, those of the likeliest tokens."""
        tokens, logprobs, *tops = (tensor[: self.count].tolist() for tensor in self.arriving.wait())
        return StepResult(tokens, logprobs, _read_tops(tops, self.tops))


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of N given tokens, and perhaps the likeliest tokens of their places, as in `Chosen`."""

    arriving: ToHost
    top: int

    def read(self) -> Scores:
        """Wait for them."""
        logprobs, *tops = (tensor.tolist() for tensor in self.arriving.wait())
        return Scores(logprobs, _read_tops(tops, [self.top] * len(logprobs)))


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
) -> Chosen:
    """Choose one token per row of `logits` [N, vocab].

    Log-probabilities are those after penalties, grammar, temperature and filters, or of the logits as they came
    (`raw_logprobs`).

    Args:
        masks: see `masks_of`.
        watermark: of the rows that ask for it.
    """
    logits = logits.float()
    shaped = [row for row, s in enumerate(samples) if s.constraint is not None or not s.params.is_plain]
    drawn = [row for row, s in enumerate(samples) if not s.params.greedy]
    raw = [row for row in shaped if samples[row].params.raw_logprobs]
    seeds = seeds_of([samples[row] for row in drawn])
    lists = [np.array(rows, np.int64) for rows in (shaped, drawn, raw)]
    shaped_rows, drawn_rows, raw_rows, seeds_there = to_device([*lists, seeds], logits.device)
    final = logits
    if shaped:
        chosen = [samples[row] for row in shaped]
        final = final.index_copy(0, shaped_rows, shape(logits[shaped_rows], chosen, masks, watermark))
    tokens = likeliest(final)
    if drawn:
        tokens = tokens.index_copy(0, drawn_rows, draw(final[drawn_rows], seeds_there))
    if raw:
        final = final.index_copy(0, raw_rows, logits[raw_rows])
    tops = [s.params.top_tokens for s in samples]
    arriving = ToHost([tokens, logprobs_of(final, tokens), *_tops(final, max(tops, default=0))])
    return Chosen(tokens, len(samples), arriving, tops)


def score(logits: Tensor, targets: Tensor, top: int) -> Scored:
    """Log-probabilities of given tokens.

    Args:
        logits: [N, vocab].
        targets: [N] int64, one token per row.
        top: how many of the likeliest tokens of each row are wanted.
    """
    logits = logits.float()
    return Scored(ToHost([logprobs_of(logits, targets), *_tops(logits, top)]), top)


def _tops(logits: Tensor, most: int) -> list[Tensor]:
    """The `most` likeliest tokens of each row and their log-probabilities, [N, most] each; nothing for 0."""
    most = min(most, logits.shape[-1])
    if not most:
        return []
    best = logits.topk(most, dim=-1)
    return [best.indices, best.values - log_sum_exp(logits)[:, None]]


def _read_tops(arrived: Sequence[list[list[float]]], counts: list[int]) -> list[Tops]:
    """For each row so many of its likeliest tokens; those that cannot come are left out. Empty where nobody asks."""
    if not arrived:
        return []
    return [
        tuple((int(t), logprob) for t, logprob in zip(tokens[:count], row[:count], strict=True) if logprob > NEVER)
        for tokens, row, count in zip(*arrived, counts, strict=True)
    ]
