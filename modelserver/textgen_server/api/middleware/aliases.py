"""Requests that are served as others: second paths of routes, and HEAD. Ahead of all that decides by path or method."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Aliases:
    """Serves each path of `paths` as the path that it stands for, and HEAD as GET; the HTTP server leaves out its
    body."""

    def __init__(self, app: ASGIApp, paths: Mapping[str, str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = self._paths.get(scope["path"])
            if path is not None:
                scope = {**scope, "path": path, "raw_path": path.encode()}
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
