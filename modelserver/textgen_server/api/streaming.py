"""Replies that watch their client. `EventStream` sends server-sent events, `while_connected` guards a single reply.
Called by the routes that generate.

Both end the work behind them as soon as the client leaves. The head of an event stream waits for the first event, so
that whatever fails before it is a proper HTTP error.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import monotonic
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from textgen_server.api.errors import Surface, problem_of
from textgen_server.errors import TextgenError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

KEEP_ALIVE_SECONDS = 15.0
MOST_UNREAD_BYTES = 8_000_000
_KEEP_ALIVE = b":\n\n"
_CLIENT_LEFT = 499  # nobody reads it; the code is nginx's

DIRECT_BODY = "textgen.direct_body"
"""An extension of ASGI, by which a server offers a `DirectBody` in the scope. api/http.py has it."""


Produce = Callable[[Callable[[bytes], None]], Awaitable[None]]


class DirectBody(Protocol):
    """The body of a reply in chunks that has begun, written without a coroutine and a message for each chunk."""

    @property
    def ready(self) -> bool:
        """False while the client reads too slowly: `write` would only fill the server's memory."""
        ...

    def write(self, chunk: bytes) -> None:
        """Send a chunk that is not empty. Does nothing when the client has left."""
        ...


class EventStream(Response):
    """A reply of server-sent events.

    Args:
        produce: is given a function that sends framed events, which never waits; returns when the reply is complete.
            Cancelled when the client leaves, or is too far behind.
        headers: read when the first event is there, so `produce` may still add to them.
        surface: how an error inside the stream is told.
    """

    media_type = "text/event-stream"

    def __init__(self, produce: Produce, headers: Mapping[str, str], surface: Surface) -> None:
        self.status_code = 200
        self.background = None
        self._produce = produce
        self._extra_headers = headers
        self._surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = _EventWriter(send, scope.get("extensions", {}).get(DIRECT_BODY), self._head)
        try:
            await _run_until(self._reply(writer), _attend(receive, writer))
        finally:
            writer.close()

    def _head(self) -> dict[str, Any]:
        # Server-sent events are always UTF-8; clients compare the type as a whole.
        fixed = {"content-type": self.media_type, "cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers({**fixed, **self._extra_headers})
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _reply(self, writer: "_EventWriter") -> None:
        writer.too_far_behind = asyncio.current_task().cancel  # type: ignore[union-attr]
        try:
            await self._produce(writer.write)
        except Exception as error:
            if not writer.begun:
                raise
            if not isinstance(error, TextgenError):
                _log.exception("a stream failed")
            writer.write(self._surface.event(problem_of(error)))
        await writer.end()


class _EventWriter:
    """Sends events: at once where the server offers that and the client keeps up, else from a task that waits for it.

    Attributes:
        begun: True when the reply can no longer become an error's.
        last_write: when there was the last event, by `time.monotonic`.
        too_far_behind: called when the client has left so much unread that it is given up.
    """

    too_far_behind: Callable[[], object]

    def __init__(self, send: Send, direct: DirectBody | None, head: Callable[[], dict[str, Any]]) -> None:
        self.begun = False
        self.last_write = monotonic()
        self._send = send
        self._direct = direct
        self._head = head
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    def write(self, event: bytes) -> None:
        self.last_write = monotonic()
        direct = self._direct
        if direct is not None and self._sending is None and self.begun and direct.ready:
            direct.write(event)
            return
        self._unsent.append(event)
        self._unsent_bytes += len(event)
        if self._unsent_bytes > MOST_UNREAD_BYTES:
            self.too_far_behind()
        elif self._sending is None:
            self._sending = asyncio.create_task(self._send_unsent())

    async def _send_unsent(self) -> None:
        await self._begin()
        while self._unsent:
            chunk = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._sending = None

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._send(self._head())

    async def end(self) -> None:
        """Complete the reply."""
        if self._sending is not None:
            await self._sending
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()


async def _attend(receive: Receive, writer: _EventWriter) -> None:
    """Return when the client has left; meanwhile keep its connection alive through silence."""
    while True:
        silence = monotonic() - writer.last_write
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS - silence):
                message = await receive()
        except TimeoutError:
            if monotonic() - writer.last_write >= KEEP_ALIVE_SECONDS:
                writer.write(_KEEP_ALIVE)
        else:
            if message["type"] == "http.disconnect":
                return


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The reply that `work` makes. The work is cancelled when the client leaves before that."""
    reply = await _run_until(work, _disconnected(request.receive))
    return Response(status_code=_CLIENT_LEFT) if reply is None else reply


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _run_until(work: Coroutine[Any, Any, _T], gone: Coroutine[Any, Any, None]) -> _T | None:
    """What `work` returns or raises; None when `gone` ended first, and the work was cancelled, or when its deadline
    passed while it was sending to a client that does not read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(gone)
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() and not working.cancelled() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
