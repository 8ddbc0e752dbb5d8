"""Replies that watch their client. `EventStream` sends server-sent events, `while_connected` guards a single reply.
Called by the routes that generate.

Both end the work behind them as soon as the client leaves. The head of an event stream waits for the first event, so
that whatever fails before it is a proper HTTP error.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from textgen_server.api.errors import Surface, problem_of
from textgen_server.errors import TextgenError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

KEEP_ALIVE_SECONDS = 15.0
_KEEP_ALIVE = b":\n\n"
_CLIENT_LEFT = 499  # nobody reads it; the code is nginx's


class EventStream(Response):
    """A reply of server-sent events.

    Args:
        events: framed events. Closed when the client leaves.
        headers: read when the first event is there, so `events` may still add to them.
        surface: how an error inside the stream is told.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], surface: Surface) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._extra_headers = headers
        self._surface = surface
        self._starting = asyncio.Lock()
        self._started = False
        self._last_write = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _run_until(self._send_events(send), self._attend(receive, send))

    async def _send_events(self, send: Send) -> None:
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await self._write(send, event)
        except Exception as error:
            if not self._started:
                raise
            if not isinstance(error, TextgenError):
                _log.exception("a stream failed")
            await self._write(send, self._surface.event(problem_of(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, chunk: bytes) -> None:
        if not self._started:
            await self._start(send)
        self._last_write = monotonic()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _start(self, send: Send) -> None:
        async with self._starting:
            if not self._started:
                self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **self._extra_headers})
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._started = True

    async def _attend(self, receive: Receive, send: Send) -> None:
        """Return when the client has left; meanwhile keep its connection alive through silence."""
        while True:
            silence = monotonic() - self._last_write
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS - silence):
                    message = await receive()
            except TimeoutError:
                if monotonic() - self._last_write >= KEEP_ALIVE_SECONDS:
                    await self._write(send, _KEEP_ALIVE)
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
