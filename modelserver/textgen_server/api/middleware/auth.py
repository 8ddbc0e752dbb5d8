"""API keys in front of the routes. What needs no key is listed here; everything else does, new routes too."""

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from textgen_server.api.errors import reply_to_error
from textgen_server.api.keys import ApiKeys
from textgen_server.errors import Unauthorized
from textgen_server.text.tenant import key_holder

# Probes and scrapers have no keys, and pages are opened before a key can be typed in. None of these tell what clients
# ask or get.
_OPEN = re.compile(
    r"/(health|ping|metrics)?"
    r"|/v2/health/(live|ready)"
    r"|/v2/models/.+/ready"
    r"|/(playground|docs(/swagger-ui\S*)?|openapi\.json|api-doc/openapi\.json)"
)


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key."""
    return method in ("GET", "HEAD") and _OPEN.fullmatch(path) is not None


class RequireKey:
    """Refuses with 401 what has no valid key."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not is_open(scope["method"], scope["path"]):
            try:
                given = [value for name, value in scope["headers"] if name == b"authorization"]
                key_holder.set(self._keys.check(given))
            except Unauthorized as error:
                app = await reply_to_error(Request(scope), error)
        await app(scope, receive, send)
