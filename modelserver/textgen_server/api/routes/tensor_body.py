"""How KServe's routes read their bodies: JSON, whatever the content type says (curl, as Triton's documentation uses it,
says something else), and with Triton's binary extension raw tensors behind it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Scope

from textgen_server.api.predictor.tensors import unpack
from textgen_server.errors import InvalidRequest

JSON_LENGTH = "inference-header-content-length"
"""Header of bodies with raw tensors: how many bytes of it are JSON."""


class TensorRoute(APIRoute):
    """A route whose body may have tensors; routers take it as their `route_class`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def read_and_handle(request: Request) -> Response:
            return await handle(_TensorRequest(_as_json(request.scope), request.receive) if has_body else request)

        return read_and_handle


def _as_json(scope: Scope) -> Scope:
    headers = [header for header in scope["headers"] if header[0] != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


class _TensorRequest(Request):
    async def json(self) -> Any:
        """The body's value, in which raw tensors stand as `data`."""
        body = await self.body()
        length = self.headers.get(JSON_LENGTH)
        if length is None:
            return orjson.loads(body)
        if not length.isdecimal() or len(length) > 20 or int(length) > len(body):
            raise HTTPException(400, f"The header {JSON_LENGTH} must be a number of bytes of the body. Given: {length}")
        value = orjson.loads(body[: int(length)])
        try:
            _put_in(value, body[int(length) :])
        except InvalidRequest as error:
            raise HTTPException(400, error.message) from None  # FastAPI lets nothing else out of here
        return value


def _put_in(value: Any, raw: bytes) -> None:
    """Cut `raw` into the data of the inputs that have none. Inputs of the wrong form are left to the schema."""
    place = 0
    inputs = value.get("inputs") if isinstance(value, dict) else None
    for tensor in inputs if isinstance(inputs, list) else []:
        match tensor:
            case {"name": str(name), "datatype": str(datatype), "parameters": {"binary_data_size": int(size)}}:
                if not 0 <= size <= len(raw) - place:
                    raise InvalidRequest(
                        f"`binary_data_size` of input `{name}` is not within the body: {size}", "inputs"
                    )
                tensor["data"] = unpack(name, datatype, raw[place : place + size])
                place += size
    if place != len(raw):
        raise InvalidRequest(f"the body has {len(raw) - place} bytes that belong to no input", "inputs")
