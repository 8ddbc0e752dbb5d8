"""The API process's side of the engine's wire. `Engine` is the seam: HTTP code and tests know only this protocol."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from textgen_server.priority import Priority
from textgen_server.rpc.engine_pb2 import EngineInfo, EngineStatus
from textgen_server.sampling import Grammar, SamplingParams

__all__ = [
    "Alternatives",
    "Engine",
    "EngineInfo",
    "EngineRequest",
    "EngineStatus",
    "Receiver",
    "SamplingParams",
    "Start",
    "Token",
]

Alternatives = tuple[tuple[int, float], ...]
"""The likeliest tokens of a place and their log-probabilities, likeliest first."""


@dataclass(frozen=True)
class EngineRequest:
    """One prompt for the engine, in token ids.

    Attributes:
        prompt_logprobs: report the log-probability of each token of the prompt, too.
        grammar: what the output must look like, or None.
        adapter: name of the adapter to use, "" for the model itself.
        cache_salt: requests share KV blocks only with the same salt.
        queue_timeout: seconds after which the request fails with Overloaded if no step has worked on it; None waits.
        tenant: whose share of the engine it takes (engine/queue.py); "" for all who are not told apart.
    """

    prompt: list[int]
    max_new_tokens: int
    sampling: SamplingParams = SamplingParams()
    stop_tokens: tuple[int, ...] = ()
    prompt_logprobs: bool = False
    grammar: Grammar | None = None
    adapter: str = ""
    cache_salt: str = ""
    queue_timeout: float | None = None
    tenant: str = ""
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True)
class Start:
    """What is known of a request when its first token comes.

    Attributes:
        queue_seconds: from its arrival at the engine to the first step that worked on it.
        cached_tokens: tokens of its prompt that were found in the prefix cache.
        prompt_logprobs: with `EngineRequest.prompt_logprobs`, log-probability of each token of the prompt but the
            first, else empty.
        prompt_tops: for each of those, with `SamplingParams.top_tokens`, the likeliest tokens of its place.
    """

    queue_seconds: float = 0.0
    cached_tokens: int = 0
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_tops: list[Alternatives] = field(default_factory=list)


class Token(NamedTuple):
    """One generated token.

    Attributes:
        logprob: natural logarithm of its probability (see `SamplingParams.raw_logprobs`).
        finish: "", or why the request ends with this token: "length" or "eos_token".
        top: the likeliest tokens of its place, as many as `SamplingParams.top_tokens` asks for, or those that filters
            and grammar leave.
        start: only with a request's first token, else None.
    """

    id: int
    logprob: float
    finish: str = ""
    top: Alternatives = ()
    start: Start | None = None


class Receiver(Protocol):
    """What an engine tells of one request, on the event loop. Both return at once and raise nothing."""

    def take(self, token: Token) -> None:
        """Tokens as they come; the last has `finish` set, and nothing follows."""
        ...

    def fail(self, error: Exception) -> None:
        """The request ends without a last token."""
        ...


class Engine(Protocol):
    """What the front asks of an engine."""

    @property
    def info(self) -> EngineInfo:
        """Limits and names of the model that is served."""
        ...

    @property
    def healthy(self) -> bool:
        """True while the engine answers and its steps make progress."""
        ...

    def submit(self, request: EngineRequest, receiver: Receiver) -> Callable[[], None]:
        """Begin with a request. Returns what ends it: nothing is received after that, and a request that has not yet
        ended is aborted.

        The receiver is told of failures: EngineUnavailable (the engine went down or got stuck meanwhile),
        GenerationError (it failed on this request), IncompleteGeneration (it ended without a last token),
        InvalidRequest (it refuses the request: its grammar cannot be used), Overloaded (`queue_timeout` has passed).

        Raises:
            EngineUnavailable: the engine is down.
        """
        ...

    async def status(self) -> EngineStatus:
        """Counters and gauges of this moment. Raises EngineUnavailable."""
        ...

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Make a LoRA adapter ready for requests; its name then is in `info.adapters`.

        Raises:
            InvalidRequest: it cannot be used with this model, or the name is taken.
            EngineUnavailable: the engine is down.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ModelNotFound, AdapterInUse or EngineUnavailable."""
        ...
