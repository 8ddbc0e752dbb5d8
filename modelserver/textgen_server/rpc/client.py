"""The API process's side of the engine's wire. `Engine` is the seam: HTTP code and tests know only this protocol."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from textgen_server.rpc.engine_pb2 import EngineInfo, EngineStatus
from textgen_server.sampling import SamplingParams

__all__ = ["Engine", "EngineInfo", "EngineRequest", "EngineStatus", "SamplingParams", "Token"]


@dataclass(frozen=True)
class EngineRequest:
    """One prompt for the engine, in token ids."""

    prompt: list[int]
    max_new_tokens: int
    sampling: SamplingParams = SamplingParams()
    stop_tokens: tuple[int, ...] = ()
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        logprob: natural logarithm of its probability after temperature and filters, as in TGI.
        finish: "", or why the request ends with this token: "length" or "eos_token".
        queue_seconds, cached_tokens: only on a request's first token, else None.
    """

    id: int
    logprob: float
    finish: str = ""
    queue_seconds: float | None = None
    cached_tokens: int | None = None


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

    def generate(self, request: EngineRequest) -> AsyncGenerator[Token, None]:
        """Tokens as they come; the last has `finish` set. Closing the generator aborts the request.

        Raises:
            EngineUnavailable: the engine is down, or went down or got stuck meanwhile.
            GenerationError: the engine failed on this request.
        """
        ...

    async def status(self) -> EngineStatus:
        """Counters and gauges of this moment. Raises EngineUnavailable."""
        ...
