"""Around everything else: each request gets an id, which every reply returns, and a line in the log when it is done."""

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textgen_server.api.errors import reply_to_error
from textgen_server.api.middleware.auth import is_open
from textgen_server.api.records import CARRIED, CLIENT_LEFT, RequestLog

_log = logging.getLogger(__name__)


class LogRequests:
    """Opens and closes the record of each request, and answers what nothing else has.

    Args:
        count: hears of method, route and status of each reply.
    """

    def __init__(self, app: ASGIApp, log: RequestLog, count: Callable[[str, str, int], None]) -> None:
        self._app = app
        self._requests = log
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in CARRIED}
        record = self._requests.begin(method, path, carrier, quiet=is_open(method, path))
        id_header = (b"x-request-id", record.id.encode())

        def send_with_id(message: Message) -> Awaitable[None]:
            # Not a coroutine of its own, because it is called for each message of a stream.
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            return send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            record.failure = record.failure or "internal"
            if record.status:
                raise  # the server logs it and breaks the connection
            _log.exception("a request failed for a reason that nobody foresaw")
            reply = await reply_to_error(Request(scope), error)
            await reply(scope, receive, send_with_id)
        finally:
            record.route = getattr(scope.get("route"), "path_format", "")
            self._requests.end(record)
            self._count(method, record.route, record.status or CLIENT_LEFT)
