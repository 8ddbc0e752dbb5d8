"""What a step did for requests. Made by the scheduler, sent off by rpc/service.py."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from textgen_server.engine.plan import Tops
from textgen_server.engine.request import Finish, Request
from textgen_server.errors import TextgenError


@dataclass(slots=True)
class Output:
    """A new token of a request. Read on other threads, when the request may have gone on."""

    request: Request
    index: int
    """It is the request's token number so many, from 0."""
    token: int
    logprob: float
    finish: Finish
    top: Tops = ()


@dataclass(slots=True)
class Failure:
    """A request that ends with an error."""

    key: Hashable
    error: TextgenError


@dataclass(slots=True)
class Events:
    """What became of requests."""

    outputs: list[Output] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
