"""How routes read their bodies: strict JSON in UTF-8, announced as such."""

import re
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body's value. orjson, because it refuses what json lets pass: NaN, lone surrogates, deep nesting."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route whose body is JSON; routers take it as their `route_class`. Other content types get 415."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def read_json_and_handle(request: Request) -> Response:
            if has_body:
                _require_json(request)
            return await handle(_JsonRequest(request.scope, request.receive))

        return read_json_and_handle


def _require_json(request: Request) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(\S+\+)?json", content_type):
        raise HTTPException(415, "The body must be JSON: send the header Content-Type: application/json")
