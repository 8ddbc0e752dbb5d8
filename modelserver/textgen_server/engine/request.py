"""One request as the engine sees it: its tokens, how far their keys and values are computed, and the blocks they hold.

Plain data for the scheduler, the block manager and the loop. No torch, no text.
"""

import enum
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from textgen_server.sampling import SamplingParams


class Finish(enum.IntEnum):
    """Why a request ended; the numbers are the wire's (engine.proto)."""

    UNFINISHED = 0
    LENGTH = 1
    END_OF_SEQUENCE = 2
    ABORTED = 3


@dataclass(eq=False, slots=True)
class Request:
    """A sequence of tokens that grows by one per step.

        tokens        p p p p p p p p g g g
                      └─ prompt ────┘ └ generated
        num_computed  ──────────▶           keys and values of tokens[:num_computed] are in the cache
        blocks        [  7  ][  2  ][  9  ]  they cover at least num_computed tokens

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
    arrival: float = field(default_factory=time.monotonic)

    prompt_length: int = field(init=False)
    num_computed: int = field(default=0, init=False)
    blocks: list[int] = field(default_factory=list, init=False)
    block_keys: list[bytes] = field(default_factory=list, init=False)
    """Prefix-cache keys of the full blocks whose contents are known (see blocks.py)."""
    num_published: int = field(default=0, init=False)
    """So many leading blocks have been offered to the prefix cache."""
    queue_seconds: float | None = field(default=None, init=False)
    """From arrival to the first step that worked on it."""
    cached_tokens: int = field(default=0, init=False)
    """Prompt tokens that were found in the prefix cache at first admission."""

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    def append(self, token: int) -> Finish:
        """Add a generated token and say whether it is the last."""
        self.tokens.append(token)
        if token in self.stop_tokens:
            return Finish.END_OF_SEQUENCE
        if self.num_generated >= self.max_new_tokens:
            return Finish.LENGTH
        return Finish.UNFINISHED
