"""The limit on request bodies. (That on heads, and on slow clients, is in api/http.py.)"""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses request bodies of more than `limit` bytes with 413, by their Content-Length or while they come.

    (FastAPI's own `max_body_size` answers in plain text.)
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._declares_too_much(Headers(scope=scope).get("content-length", ""))
        received = 0

        async def limited() -> Message:
            nonlocal received
            if refused:
                raise _too_large(self._limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _too_large(self._limit)
            return message

        await self._app(scope, limited, send)

    def _declares_too_much(self, content_length: str) -> bool:
        # Python refuses to convert numbers of thousands of digits.
        return content_length.isdecimal() and (len(content_length) > 20 or int(content_length) > self._limit)


def _too_large(limit: int) -> HTTPException:
    # The rest of the body is not read, so the connection cannot be used again.
    return HTTPException(413, f"The request body is larger than {limit} bytes", {"Connection": "close"})
