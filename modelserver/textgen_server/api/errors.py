"""Every failure to its HTTP reply: the one place where errors become JSON. Used by app.py for whole replies and by
streaming.py for events inside a stream.

Any exception first becomes a `Problem`; the surface that the client speaks (TGI's, OpenAI's or KServe's, known from the
path) writes it in its own shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from textgen_server.errors import (
    ContextExceeded,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestError,
    ShuttingDown,
    TextgenError,
    Unauthorized,
)

# error_type of failures that HTTP itself knows, where the error tree has no class.
_HTTP_ERROR_TYPES = {
    400: "validation",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation",
    431: "request_headers_too_large",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Problem:
    """A failure, ready to be told.

    Attributes:
        status: TGI's HTTP status.
        error_type: TGI's word for it.
        param: the field that is wrong, where one is.
        code: OpenAI's word for it, where that is not `error_type`.
    """

    status: int
    message: str
    error_type: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None


class Surface(ABC):
    """The shape in which one API tells problems."""

    def status(self, problem: Problem) -> int:
        """HTTP status of a reply that tells `problem`."""
        return problem.status

    @abstractmethod
    def body(self, problem: Problem) -> dict[str, Any]:
        """JSON object that tells `problem`."""

    def event(self, problem: Problem) -> bytes:
        """The last bytes of a stream that fails after it began."""
        return b"data: " + orjson.dumps(self.body(problem)) + b"\n\n"


class TgiSurface(Surface):
    """{"error", "error_type"}"""

    def body(self, problem: Problem) -> dict[str, Any]:
        return {"error": problem.message, "error_type": problem.error_type}


class OpenAiSurface(Surface):
    """{"error": {"message", "type", "param", "code"}}"""

    def status(self, problem: Problem) -> int:
        # OpenAI's clients know 400 for a wrong request, and repeat what fails with 500 and above.
        return {422: 400, 424: 500}.get(problem.status, problem.status)

    def body(self, problem: Problem) -> dict[str, Any]:
        status = self.status(problem)
        type = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = problem.code if problem.error_type == "validation" else problem.error_type
        return {"error": {"message": problem.message, "type": type, "param": problem.param, "code": code}}

    def event(self, problem: Problem) -> bytes:
        return super().event(problem) + b"data: [DONE]\n\n"


class GenerateSurface(Surface):
    """{"error"}, with TGI's statuses, which the Open Inference Protocol has for its generate routes."""

    def body(self, problem: Problem) -> dict[str, Any]:
        return {"error": problem.message}


class KServeSurface(GenerateSurface):
    """{"error"}, with the statuses that KServe uses everywhere else."""

    def status(self, problem: Problem) -> int:
        return {422: 400, 424: 500}.get(problem.status, problem.status)


TGI = TgiSurface()
OPENAI = OpenAiSurface()
GENERATE = GenerateSurface()
KSERVE = KServeSurface()


def surface_of(path: str) -> Surface:
    """The surface that speaks at `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        return GENERATE if path.endswith(("/generate", "/generate_stream")) else KSERVE
    if path == "/v1" or path.startswith("/v1/"):
        return KSERVE if path.endswith(":predict") else OPENAI
    return TGI


def problem_of(error: Exception) -> Problem:
    """What to tell about `error`. Errors that are not ours are told without their text, which may hold secrets."""
    match error:
        case TextgenError():
            return _ours(error)
        case RequestValidationError():
            return _schema_violation(error)
        case HTTPException():
            error_type = _HTTP_ERROR_TYPES.get(error.status_code, "http_error")
            return Problem(error.status_code, error.detail, error_type, headers=error.headers or {})
    return Problem(500, "Internal error; the server's log has the details", TextgenError.error_type)


async def reply_to_error(request: Request, error: Exception) -> Response:
    """Exception handler of the application."""
    problem = problem_of(error)
    surface = surface_of(request.url.path)
    headers = {**problem.headers, **({"Allow": _allowed_methods(request)} if problem.status == 405 else {})}
    return Response(
        orjson.dumps(surface.body(problem)), surface.status(problem), headers, media_type="application/json"
    )


def _allowed_methods(request: Request) -> str:
    """Of all routes at the path; the router knows those of the first."""
    routes = request.app.routes
    return ", ".join(
        method
        for method in ("GET", "POST")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    )


# Which exceptions `reply_to_error` handles; Exception is for what nobody foresaw.
HANDLED: tuple[type[Exception], ...] = (TextgenError, RequestValidationError, HTTPException, Exception)


def _ours(error: TextgenError) -> Problem:
    headers, param = {}, None
    match error:
        case Overloaded():
            headers["Retry-After"] = str(error.retry_after)
        case ShuttingDown():
            headers["Connection"] = "close"
        case Unauthorized():
            headers["WWW-Authenticate"] = "Bearer"
        case DeadlineExceeded():
            # OpenAI's library repeats what fails with 500 and above; the same request would take as long again.
            headers["x-should-retry"] = "false"
        case InvalidRequest() | ModelNotFound():
            param = error.field
    code = "context_length_exceeded" if isinstance(error, ContextExceeded) else None
    return Problem(error.http_status, error.message, error.error_type, param, headers, code)


def _schema_violation(error: RequestValidationError) -> Problem:
    """The first thing that is wrong with a body, and how many others there are."""
    first, *others = error.errors()
    location = first["loc"][1:]  # behind "body"
    if first["type"] == "json_invalid":
        return Problem(400, f"Failed to parse the request body as JSON: {first['ctx']['error']}", "validation")
    if not location and first["type"] == "missing":
        return Problem(400, "Failed to parse the request body as JSON: it is empty", "validation")
    param = _dotted(location)
    more = f" (and {len(others)} more)" if others else ""
    subject = f"`{param}`: " if param else ""
    message = first["msg"].removeprefix("Value error, ")
    return Problem(
        RequestError.http_status, f"Input validation error: {subject}{message}{more}", RequestError.error_type, param
    )


def _dotted(location: tuple[int | str, ...]) -> str | None:
    """("messages", 0, "role") as messages[0].role; None for the body as a whole."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.removeprefix(".") or None
