"""What one step computes. The scheduler writes plans, the runner carries them out, worker ranks receive them whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from textgen_server.sampling import SamplingParams

Tops = tuple[tuple[int, float], ...]
"""The likeliest tokens of a place and their log-probabilities, likeliest first."""

NO_MEMORY = "the GPU ran out of memory; lower --max-batch-prefill-tokens or --cuda-memory-fraction"
"""What a request is told for which memory did not suffice."""

Masks = np.ndarray[Any, np.dtype[np.int32]]
"""Sets of tokens, one in each row: token t is in it when bit t % 32 of word t // 32 is set."""


class Constraint(Protocol):
    """What a request's grammar lets follow what it has generated. Belongs to one request."""

    @property
    def finished(self) -> bool:
        """True when nothing may follow."""
        ...

    @staticmethod
    def fill_masks(constraints: Sequence[Any], masks: Masks) -> None:
        """Write into the rows of `masks`, which are all zeros, which tokens may come next, for constraints of one kind.
        Never raises for what they forbid: where a grammar has broken, `accept` will."""
        ...

    def accept(self, token: int) -> None:
        """`token` came. Raises GenerationError when the grammar cannot go on."""
        ...


@dataclass(slots=True)
class Sample:
    """Choose the next token of an item after its last row.

    Attributes:
        position: how many tokens the request has generated so far; with the seed it fixes the random draw.
        history: prompt and generated tokens, where a penalty needs them, else None; the last `position` of them are
            the generated ones.
        previous: the token before the one to choose, where a watermark needs it, else 0.
        constraint: what may be chosen, or None for everything.
    """

    params: SamplingParams
    position: int
    history: list[int] | None = None
    previous: int = 0
    constraint: Constraint | None = None

    def after(self, guesses: list[int]) -> "Sample":
        """The same choice if `guesses`, at least one, had been chosen before it."""
        history = None if self.history is None else self.history + guesses
        return replace(self, position=self.position + len(guesses), history=history, previous=guesses[-1])


@dataclass(slots=True)
class Item:
    """One request's share of a step.

    Attributes:
        tokens: the token ids whose keys and values are computed.
        start: position of the first of them in the sequence.
        blocks: all blocks of the sequence, in order; they cover start + len(tokens) tokens.
        sample: how to choose the next token, or None for a chunk that is not the prompt's last.
        drafts: so many tokens at the end are guesses of what follows. A token is chosen before each of them too;
            `sample` is of the first choice.
        targets: with prompt log-probabilities, the tokens that follow the first rows, one for each, else empty.
        top_targets: so many of the likeliest tokens are reported for each target.
        encoder_length: with an encoder-decoder model, so many tokens at the sequence's start are the encoder's.
        adapter: name of the adapter that its rows use, "" for the model itself.
        long: LongRoPE's long factors turn it from its first token on.
        follows: where it is not -1, the last of `tokens`, a 0 here, is not known yet: it is the one that the plan
            launched before chooses, number so many of its choices (those of items that fail are counted too).
    """

    tokens: list[int]
    start: int
    blocks: list[int]
    sample: Sample | None
    targets: Sequence[int] = ()
    top_targets: int = 0
    encoder_length: int = 0
    adapter: str = ""
    drafts: int = 0
    long: bool = False
    follows: int = -1

    @property
    def is_decode(self) -> bool:
        """True where all of the prompt has been computed before."""
        return self.sample is not None and len(self.tokens) == 1 + self.drafts

    def choices(self) -> list[Sample]:
        """How to choose the token after each of the last `drafts` + 1 rows."""
        if self.sample is None:
            return []
        guesses = self.tokens[len(self.tokens) - self.drafts :]
        return [self.sample, *(self.sample.after(guesses[:count]) for count in range(1, self.drafts + 1))]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The items of one step: first those that decode one token, then those of several, guesses and prefill chunks."""

    items: list[Item]
    num_decodes: int

    @property
    def prefills(self) -> list[Item]:
        """The items that compute prompt tokens."""
        return [item for item in self.items[self.num_decodes :] if not item.is_decode]

    def halves(self) -> tuple["StepPlan", "StepPlan"]:
        """The same work in two steps. Of at least two items."""
        middle = len(self.items) // 2
        first, second = self.items[:middle], self.items[middle:]
        return StepPlan(first, min(self.num_decodes, middle)), StepPlan(second, max(self.num_decodes - middle, 0))


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one item's targets: their log-probabilities, and the likeliest tokens of their places if asked for."""

    logprobs: list[float]
    tops: list[Tops]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought.

    Attributes:
        tokens, logprobs: for each choice of the plan's items (`Item.choices`), in order: the chosen token, and its
            log-probability.
        tops: for each of those the likeliest tokens, or empty where none asks for them.
        scores: for each item that has targets, in order.
        failed: places of the items for which memory did not suffice. Neither choices nor scores are there for them.
    """

    tokens: list[int]
    logprobs: list[float]
    tops: list[Tops] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def followed_by(self, other: "StepResult", num_items: int) -> "StepResult":
        """The result of this step's `num_items` items and of the other's, as if they had been one step's."""
        tops = []
        if self.tops or other.tops:
            tops = [top for part in (self, other) for top in part.tops or [()] * len(part.tokens)]
        return StepResult(
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
            tops,
            self.scores + other.scores,
            self.failed + [num_items + place for place in other.failed],
        )
