"""HTTP/1.1 on the wire: uvicorn's configuration, and its protocol with the limits that it lacks. Used by the launcher.

A client may send a head of `header_limit` bytes, and has `receive_timeout` seconds for head and body. Requests that
arrive in one piece, as nearly all do, cost no timer of their own. Offers of other protocols are declined without losing
the request that makes them.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import orjson
import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from textgen_server.api.errors import problem_of, surface_of
from textgen_server.api.streaming import DIRECT_BODY
from textgen_server.settings import ServerOptions
from textgen_server.tls import Certificate

_log = logging.getLogger(__name__)

_UPGRADE = (b"upgrade", b"http2-settings")

BACKLOG = 2048
CONNECTION_CLOSE_SECONDS = 5


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the launcher drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_config(app: ASGIApp, options: ServerOptions, certificate: Certificate | None) -> uvicorn.Config:
    """How uvicorn serves `app`: HTTPS with a certificate, else HTTP."""
    return uvicorn.Config(
        app,
        http=limited_protocol(options.header_limit, options.receive_timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=CONNECTION_CLOSE_SECONDS,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )


def limited_protocol(header_limit: int, receive_timeout: float) -> type[asyncio.Protocol]:
    """The protocol with these limits, in bytes and seconds."""
    limits = {"header_limit": header_limit, "receive_timeout": receive_timeout}
    return type("LimitedProtocol", (_LimitedProtocol,), limits)


class _NotForUs(Exception):
    """The head is longer than the limit, or asks for a tunnel. The parser reports it as an error of its own."""


class _DirectBody:
    """See streaming.DirectBody. What uvicorn does for a chunk costs more than the chunk of one token is worth."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._send = cycle.transport.write

    @property
    def ready(self) -> bool:
        return not self._flow.write_paused

    def write(self, chunk: bytes) -> None:
        if not self._cycle.disconnected:
            self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk))


class _LimitedProtocol(HttpToolsProtocol):
    """One connection. uvicorn calls it with what arrives, and httptools with what that means."""

    header_limit: ClassVar[int]
    receive_timeout: ClassVar[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._arriving = False  # a request has begun and not ended
        self._in_head = False
        self._parsed = 0  # bytes of the head that the parser has reported
        self._unparsed = 0  # bytes that came since the head began, for what it does not report before its end
        self._timer: asyncio.TimerHandle | None = None
        self._current: RequestResponseCycle | None = None  # whose reply is the next or the one being sent

    # --- parsing ----------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.transport.is_closing():
            return
        if was_in_head and self._in_head:
            self._unparsed += len(data)
            if self._unparsed > self.header_limit:
                self._refuse(431, f"The request's head is larger than {self.header_limit} bytes")
                return
        self._watch()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_head()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its offer of another protocol, after which the parser takes no body. Java's
        HttpClient offers HTTP/2 with its first request."""
        lines = [b"%s %s HTTP/1.1" % (self.scope["method"].encode(), self.url)]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(each for each in value.split(b",") if each.strip().lower() not in _UPGRADE)
            if name not in _UPGRADE:
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([*lines, b"", rest]))

    # --- limits -----------------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._in_head = True
        self._parsed = self._unparsed = 0
        self._stop_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + len(": \r\n"))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.scope["method"] = method = self.parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise _NotForUs
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving = False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _count(self, bytes_of_head: int) -> None:
        self._parsed += bytes_of_head
        if self._parsed > self.header_limit:
            raise _NotForUs

    # --- time -------------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()  # a request that was waiting behind the other may be incomplete

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._abandon()  # uvicorn itself tells only the last of several requests
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        cycle.scope["extensions"] = {DIRECT_BODY: _DirectBody(cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def _abandon(self) -> None:
        """Tell the current request that its client is gone."""
        if self._current is not None and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()

    def _watch(self) -> None:
        """See to it that the timer runs while a request is incomplete, and only then."""
        if not self._arriving:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.receive_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._is_replying() and self._is_of_next_request()):
            self._start_timer()  # it waits for us
        elif self._in_head or self._is_replying():
            self._refuse(408, f"The request did not arrive within {self.receive_timeout:g} seconds")
        else:
            self.transport.close()  # nothing was asked, or it has been answered

    def _is_replying(self) -> bool:
        return self._current is not None and not self._current.response_complete

    def _is_of_next_request(self) -> bool:
        """Whether what arrives belongs to a request behind the current one."""
        return self._in_head or bool(self.pipeline)

    # --- refusals ---------------------------------------------------------------------------------------------------
    def _refuse_head(self) -> None:
        if self._parsed > self.header_limit:
            self._refuse(431, f"The request's head is larger than {self.header_limit} bytes")
        else:
            self._refuse(400, "Invalid HTTP request received")

    def _refuse(self, status: int, message: str) -> None:
        """Answer, unless another reply has begun or is due first, and close the connection."""
        replying = self._current if self._is_replying() else None
        if replying is None or not (replying.response_started or self._is_of_next_request()):
            self.transport.write(self._refusal(status, message))
        self._abandon()
        self._stop_timer()
        self.transport.close()

    def _refusal(self, status: int, message: str) -> bytes:
        request_id = uuid.uuid4().hex
        _log.warning("refused a request from %s with %d: %s [%s]", self.client, status, message, request_id)
        body = self._body(status, message)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"connection: close\r\nx-request-id: {request_id}\r\n\r\n"
        )
        return head.encode() + body

    def _body(self, status: int, message: str) -> bytes:
        path = self.url.decode("latin-1").partition("?")[0]
        return orjson.dumps(surface_of(path).body(problem_of(HTTPException(status, message))))
