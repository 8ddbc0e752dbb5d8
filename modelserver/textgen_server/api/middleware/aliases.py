"""Second paths of routes, as clouds ask for them. Ahead of all that decides by the path."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Aliases:
    """Serves each path of `paths` as the path that it stands for."""

    def __init__(self, app: ASGIApp, paths: Mapping[str, str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._paths.get(scope.get("path", ""))
        if path is not None:
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
