"""One request as the engine sees it: its tokens, how far their keys and values are computed, and the blocks they hold.

Plain data for the scheduler, the block manager and the loop. No torch, no text.
"""

import enum
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from textgen_server.engine.plan import Constraint, Scores
from textgen_server.engine.speculation import Lookup
from textgen_server.priority import Priority
from textgen_server.sampling import SamplingParams


class Finish(enum.IntEnum):
    """Why a request ended; the numbers are the wire's (engine.proto)."""

    UNFINISHED = 0
    LENGTH = 1
    END_OF_SEQUENCE = 2
    ABORTED = 3


@dataclass(eq=False, slots=True)
class Account:
    """What a tenant's requests have been given, in tokens (see queue.py)."""

    served: float = 0.0


@dataclass(eq=False, slots=True)
class Request:
    """A sequence of tokens that grows by one per step.

        tokens        p p p p p p p p g g g
                      └─ prompt ────┘ └ generated
        num_computed  ──────────▶           keys and values of tokens[:num_computed] are in the cache
        blocks        [  7  ][  2  ][  9  ]  they cover at least num_computed tokens

    While steps are under way, `num_computed` counts what they compute, and `num_chosen` tokens that they choose stand
    behind `tokens`, unknown yet; the last of them is choice number `follows` of the newest plan.

    With an encoder-decoder model the sequence is the encoder's tokens and, behind them, the decoder's: a start token
    and what is generated. Blocks cover both; the encoder's tokens are computed in one step, because each sees them all.

    A request decodes when all but its last token are computed, else it prefills. After a preemption num_computed is 0
    and prefill covers the generated tokens too, so nothing is lost but time.
    """

    key: Hashable
    """Who it is, to whoever submitted it."""
    tokens: list[int]
    max_new_tokens: int
    sampling: SamplingParams = SamplingParams()
    stop_tokens: frozenset[int] = frozenset()
    cache_salt: str = ""
    """Requests share KV blocks only with the same salt."""
    wants_prompt_logprobs: bool = False
    adapter: str = ""
    encoder_length: int = 0
    """So many tokens at the start are the encoder's."""
    constraint: Constraint | None = None
    queue_timeout: float | None = None
    """Seconds after its arrival when it is given up, if no step has worked on it."""
    tenant: str = ""
    """Who is to have a fair share, "" for all who are not told apart."""
    priority: Priority = Priority.NORMAL
    arrival: float = field(default_factory=time.monotonic)

    prompt_length: int = field(init=False)
    longest: int = field(init=False)
    """Tokens of its prompt, and all that it may generate."""
    choices_need_tokens: bool = field(init=False)
    """What it asks for depends on the tokens before, not only on how many they are."""
    ended: bool = field(default=False, init=False)
    number: int = field(default=0, init=False)
    """In the order of arrival."""
    account: Account = field(default_factory=Account, init=False)
    """Its tenant's."""
    displaced: bool = field(default=False, init=False)
    """It has made room for a higher class once, and need not again."""
    num_computed: int = field(default=0, init=False)
    num_chosen: int = field(default=0, init=False)
    follows: int = field(default=-1, init=False)
    blocks: list[int] = field(default_factory=list, init=False)
    block_keys: list[bytes] = field(default_factory=list, init=False)
    """Prefix-cache keys of the full blocks whose contents are known (see blocks.py)."""
    num_published: int = field(default=0, init=False)
    """So many leading blocks have been offered to the prefix cache."""
    queue_seconds: float | None = field(default=None, init=False)
    """From arrival to the first step that worked on it."""
    cached_tokens: int = field(default=0, init=False)
    """Prompt tokens that were found in the prefix cache at first admission."""
    long: bool = field(default=False, init=False)
    """It is, or has become, longer than LongRoPE's original length, and is computed as long sequences are."""
    lookup: Lookup = field(default_factory=Lookup, init=False)
    """For guesses of its next tokens, where the scheduler asks for such."""
    prompt_scores: Scores = field(default_factory=lambda: Scores([], []), init=False)
    """Of the prompt's tokens but the first, as far as they have been scored."""

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)
        self.longest = self.prompt_length + self.max_new_tokens
        sampling = self.sampling
        self.choices_need_tokens = self.wants_prompt_logprobs or sampling.needs_history or sampling.watermark

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def length(self) -> int:
        """Of its sequence, the tokens that steps under way choose included."""
        return len(self.tokens) + self.num_chosen

    @property
    def num_uncomputed(self) -> int:
        return self.length - self.num_computed

    @property
    def foreseeable(self) -> bool:
        """True when its next step can be planned before the last one's result is known."""
        return self.constraint is None and not self.choices_need_tokens

    @property
    def needs_scores(self) -> bool:
        """True while log-probabilities of the prompt are still to be computed."""
        causal = self.encoder_length == 0
        return causal and self.wants_prompt_logprobs and len(self.prompt_scores.logprobs) < self.prompt_length - 1

    @property
    def shortest_chunk(self) -> int:
        """The fewest tokens that the next step can compute: the encoder's and the start token, or one."""
        return max(self.encoder_length + 1 - self.num_computed, 1)

    def expired(self, now: float) -> bool:
        """True when it has waited for its first step longer than it may."""
        waiting = self.queue_timeout is not None and self.queue_seconds is None
        return waiting and now - self.arrival > (self.queue_timeout or 0.0)

    def append(self, token: int) -> Finish:
        """Add a generated token and say whether it is the last.

        Raises:
            GenerationError: the request's grammar cannot go on.
        """
        self.tokens.append(token)
        if self.constraint is not None:
            self.constraint.accept(token)
        if token in self.stop_tokens or (self.constraint is not None and self.constraint.finished):
            return Finish.END_OF_SEQUENCE
        if len(self.tokens) >= self.longest:
            return Finish.LENGTH
        return Finish.UNFINISHED
