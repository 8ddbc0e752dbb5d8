"""In front of all gRPC services: keys, records, and errors as status codes. What app.py's middleware is to HTTP."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from textgen_server.api.errors import problem_of
from textgen_server.api.keys import ApiKeys
from textgen_server.api.records import REQUEST_ID, RequestLog, RequestRecord
from textgen_server.errors import TextgenError
from textgen_server.text.tenant import key_holder

_log = logging.getLogger(__name__)

# Probes have no keys.
_OPEN = frozenset(
    (
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady",
    )
)

Metadata = Sequence[tuple[str, str | bytes]]


@contextmanager
def recorded(log: RequestLog, method: str, metadata: Metadata, quiet: bool = False) -> Iterator[RequestRecord]:
    """The record of a request, closed at the end of the block. gRPC is POST over HTTP/2, and so it is written down."""
    carrier = {name: value for name, value in metadata if isinstance(value, str)}
    record = log.begin("POST", method, carrier, quiet)
    record.route = method
    try:
        yield record
        record.status = 200
    except Exception as error:
        record.status = problem_of(error).status
        if not isinstance(error, TextgenError):
            record.failure = record.failure or "internal"
        raise
    finally:
        log.end(record)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets in who has a key, and tells errors."""

    def __init__(self, keys: ApiKeys, log: RequestLog) -> None:
        self._keys = keys
        self._requests = log

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """gRPC asks at every call what is to handle it."""
        handler = await continuation(details)
        if handler is None:
            return None
        if handler.unary_unary:
            return handler._replace(unary_unary=self._unary(handler.unary_unary, details))
        kind = "stream_stream" if handler.stream_stream else "unary_stream"
        return handler._replace(**{kind: self._stream(getattr(handler, kind), details)})

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]], details: Any) -> Callable[[Any, Any], Any]:
        async def call(request: Any, rpc: Any) -> Any:
            quiet = details.method in _OPEN
            try:
                with recorded(self._requests, details.method, details.invocation_metadata, quiet) as record:
                    rpc.set_trailing_metadata(((REQUEST_ID, record.id),))
                    self._check(details)
                    return await behaviour(request, rpc)
            except Exception as error:
                await _abort(rpc, error)

        return call

    def _stream(self, behaviour: Callable[[Any, Any], Any], details: Any) -> Callable[[Any, Any], Any]:
        async def call(request_or_requests: Any, rpc: Any) -> None:
            try:
                self._check(details)
                answering = behaviour(request_or_requests, rpc)
                if not isinstance(answering, AsyncGenerator):
                    await answering  # it writes by itself
                    return
                async with aclosing(answering) as messages:
                    async for message in messages:
                        await rpc.write(message)
            except Exception as error:
                await _abort(rpc, error)

        return call

    def _check(self, details: Any) -> None:
        if details.method not in _OPEN:
            given = [value for name, value in details.invocation_metadata if name == "authorization"]
            key_holder.set(self._keys.check([v.encode() if isinstance(v, str) else v for v in given]))


async def _abort(rpc: Any, error: Exception) -> None:
    """End the call with the status of `error`. Raises what gRPC makes of it."""
    if isinstance(error, grpc.aio.AbortError):
        raise error  # the service has done so itself
    if not isinstance(error, TextgenError):
        _log.error("a call failed for a reason that nobody foresaw", exc_info=error)
    code = getattr(grpc.StatusCode, error.grpc_code if isinstance(error, TextgenError) else TextgenError.grpc_code)
    await rpc.abort(code, problem_of(error).message)
