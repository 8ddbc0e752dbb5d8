"""The API's description in OpenAPI 3.1, as app.py serves it and docs/openapi.json keeps it.

FastAPI knows routes, bodies and replies. What holds for many routes is added here: how they fail, whether they want a
key, what their events look like. So a new route needs a line in `EXAMPLES`, and no more.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from textgen_server.api.errors import GENERATE, KSERVE, OPENAI, TGI, Problem, Surface, surface_of
from textgen_server.api.middleware.auth import is_open
from textgen_server.api.schemas.chat import ChatCompletionChunk
from textgen_server.api.schemas.common import Reply
from textgen_server.api.schemas.completions import CompletionChunk
from textgen_server.api.schemas.kserve import KServeErrorReply
from textgen_server.api.schemas.openai import OpenAiErrorReply
from textgen_server.api.schemas.tgi import ErrorReply
from textgen_server.telemetry import VERSION

_Json = dict[str, Any]

_DESCRIPTION = """
One model, and adapters of it, behind the APIs that its clients already speak:

- **TGI**: `/generate`, `/generate_stream` and what belongs to them, as in text-generation-inference 3.3
- **OpenAI**: `/v1/completions`, `/v1/chat/completions`, `/v1/models`
- **KServe**: the Open Inference Protocol v2 with its generate extension, and v1's `:predict`
- **Clouds**: `/ping` and `/invocations` for Amazon SageMaker, `/vertex` for Google Vertex AI
- **Server**: health, limits, metrics

Parameters that a body leaves out, and those that are null, have their defaults. Unknown fields are ignored. Streams are
server-sent events; a stream that fails before its first token has the status of its error, later ones end with an event
that tells it.

Errors have the shape of the API that was called. Every reply has the header `x-request-id`.
"""
_TAGS = {
    "TGI": "Text generation with the API of text-generation-inference.",
    "OpenAI": "Completions and chat, as OpenAI's client libraries speak.",
    "KServe": "The Open Inference Protocol.",
    "Clouds": "How Amazon SageMaker and Google Vertex AI call a container.",
    "Adapters": "LoRA adapters that come and go while the server runs, with `--lora-loading`. The names are vLLM's.",
    "Server": "About the server itself.",
}
_ERROR_REPLIES: dict[Surface, type[Reply]] = {
    TGI: ErrorReply,
    OPENAI: OpenAiErrorReply,
    GENERATE: KServeErrorReply,
    KSERVE: KServeErrorReply,
}
# Routes name these, and write them by hand.
_CHUNKS: tuple[type[Reply], ...] = (CompletionChunk, ChatCompletionChunk)
# By TGI's statuses; a surface may have others.
_INTERNAL = "Internal error; the server's log has the details"
_FAILURES_OF_KEYS = {401: "No API key, or a wrong one"}
_FAILURES_OF_BODIES = {
    400: "The body is no JSON",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not announced as `application/json`",
    422: "A value is wrong; the message names it",
}
_FAILURES_OF_GENERATION = {
    404: "No such model or adapter",
    424: "The engine failed on this request",
    429: "Too many requests at once; `Retry-After` says when to come again",
    503: "The engine is unavailable, or the server is shutting down",
    504: "The request took longer than it may",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `--api-key` or `--api-key-file`. Where the server has none, every request is served.",
}
_EVENTS = "text/event-stream"

# A body for every route that takes one, which it answers (given such an adapter).
_CHAT = {"messages": [{"role": "user", "content": "What is deep learning?"}], "max_tokens": 64, "temperature": 0}
_GENERATE = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20, "details": True}}
_INFER = {
    "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["What is deep learning?"]}],
    "parameters": {"max_tokens": 20},
}
_GENERATE_TEXT = {"text_input": "What is deep learning?", "parameters": {"max_tokens": 20}}
EXAMPLES: dict[str, _Json] = {
    "/": {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}, "stream": False},
    "/generate": _GENERATE,
    "/generate_stream": _GENERATE,
    "/tokenize": {"inputs": "What is deep learning?"},
    "/chat_tokenize": {"messages": [{"role": "user", "content": "What is deep learning?"}]},
    "/invocations": {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}},
    "/vertex": {"instances": [{"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}]},
    "/v1/completions": {"prompt": "Deep learning is", "max_tokens": 20, "temperature": 0, "stream": False},
    "/v1/chat/completions": _CHAT,
    "/v1/load_lora_adapter": {"lora_name": "my-adapter", "lora_path": "/data/my-adapter"},
    "/v1/unload_lora_adapter": {"lora_name": "my-adapter"},
    "/v1/models/{model_name}:predict": {"instances": ["What is deep learning?"], "parameters": {"max_tokens": 20}},
    "/v2/models/{model_name}/infer": _INFER,
    "/v2/models/{model_name}/versions/{model_version}/infer": _INFER,
    "/v2/models/{model_name}/generate": _GENERATE_TEXT,
    "/v2/models/{model_name}/versions/{model_version}/generate": _GENERATE_TEXT,
    "/v2/models/{model_name}/generate_stream": _GENERATE_TEXT,
    "/v2/models/{model_name}/versions/{model_version}/generate_stream": _GENERATE_TEXT,
}


def describe(routers: Iterable[APIRouter], model_name: str) -> _Json:
    """The OpenAPI document of an application of `routers`. Examples speak of `model_name`."""
    app = FastAPI(generate_unique_id_function=_operation_id)
    for router in routers:
        app.include_router(router)
    document = get_openapi(
        title="textgen",
        version=VERSION,
        summary="Text generation with the APIs of TGI, OpenAI and KServe",
        description=_DESCRIPTION.strip(),
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    for path, method, operation in _operations(document):
        _complete(operation, path, method, model_name)
    schemas = _without_titles(_schemas_in_use(document))
    document["components"] = {"schemas": schemas, "securitySchemes": {"key": _KEY}}
    document["paths"] = _without_titles(document["paths"])
    return document


def _operation_id(route: APIRoute) -> str:
    """Names an operation after its method and path, because several routes may share a function."""
    return "_".join([*sorted(route.methods or ()), *(_words(route.path_format) or ["root"])]).lower()


def _words(path: str) -> list[str]:
    return [part.strip("{}") for part in path.replace(":", "/").split("/") if part]


def _operations(document: _Json) -> Iterator[tuple[str, str, _Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _complete(operation: _Json, path: str, method: str, model_name: str) -> None:
    first, _, more = operation.pop("description", operation["summary"]).partition("\n\n")
    operation["summary"] = " ".join(first.split())
    if more:
        operation["description"] = more
    if not is_open(method, path):
        operation["security"] = [{"key": []}]
    # /invocations answers as the route whose body it gets.
    surfaces = (TGI, OPENAI) if path == "/invocations" else (surface_of(path),)
    operation["responses"] = _successes(operation["responses"], surfaces) | _failures(operation, surfaces)
    if "requestBody" in operation and path in EXAMPLES:
        operation["requestBody"]["content"]["application/json"]["example"] = EXAMPLES[path]
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in ("model_name", "model_id"):
            parameter["example"] = model_name


def _successes(responses: _Json, surfaces: Sequence[Surface]) -> _Json:
    good = {status: response for status, response in responses.items() if int(status) < 400}
    for response in good.values():
        if events := response.get("content", {}).get(_EVENTS):
            events["schema"] = _event(events["schema"], surfaces)
    return good


def _event(schema: _Json, surfaces: Sequence[Surface]) -> _Json:
    """A server-sent event, whose data is JSON that `schema` describes, or an error."""
    data: _Json = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [schema, *_errors(surfaces)]}}
    data = {"anyOf": [{"const": "[DONE]"}, data]} if OPENAI in surfaces else data
    return {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", **data}}}


def _failures(operation: _Json, surfaces: Sequence[Surface]) -> _Json:
    """How the operation fails, in the surfaces' statuses and shapes. What routes say of it themselves comes last."""
    declared = {status: response for status, response in operation["responses"].items() if int(status) >= 400}
    told: dict[str, list[str]] = {}
    for status, cause in sorted(_causes(operation, surfaces).items()):
        for translated in sorted({str(surface.status(Problem(status, cause, ""))) for surface in surfaces}):
            told.setdefault(translated, []).append(cause)
    for status, response in declared.items():
        if "HTTPValidationError" not in json.dumps(response):
            told.setdefault(status, [_FAILURES_OF_GENERATION.get(int(status), response["description"])])
    errors = _errors(surfaces)
    content = {"application/json": {"schema": errors[0] if len(errors) == 1 else {"anyOf": errors}}}
    failures = {
        status: {"description": "; or: ".join(reasons), "content": content} for status, reasons in sorted(told.items())
    }
    if "429" in failures:
        failures["429"]["headers"] = _RETRY_AFTER
    return failures


def _causes(operation: _Json, surfaces: Sequence[Surface]) -> dict[int, str]:
    """Why the operation may fail, by TGI's statuses. Those that say 429 themselves generate."""
    causes = {500: _INTERNAL}
    causes |= _FAILURES_OF_KEYS if "security" in operation else {}
    causes |= _FAILURES_OF_BODIES if "requestBody" in operation else {}
    if KSERVE in surfaces or GENERATE in surfaces:
        causes.pop(415, None)  # JSON is read there whatever the content type says
    return causes | (_FAILURES_OF_GENERATION if "429" in operation["responses"] else {})


def _errors(surfaces: Sequence[Surface]) -> list[_Json]:
    return [{"$ref": _reference(_ERROR_REPLIES[surface].__name__)} for surface in surfaces]


def _schemas_in_use(document: _Json) -> _Json:
    """The schemas that operations lead to; FastAPI's own for errors are not among them."""
    known = document["components"]["schemas"]
    for reply in (*_ERROR_REPLIES.values(), *_CHUNKS):
        schema = reply.model_json_schema(ref_template=_reference("{model}"))
        known |= schema.pop("$defs", {}) | {reply.__name__: schema}
    used: set[str] = set()
    found = _references(document["paths"])
    while found:
        used |= found
        found = _references([known[name] for name in found]) - used
    return {name: known[name] for name in sorted(used)}


def _without_titles(part: Any) -> Any:
    """Pydantic makes them from names, beside which they say nothing."""
    match part:
        case dict():
            return {
                key: _without_titles(each) for key, each in part.items() if key != "title" or isinstance(each, dict)
            }
        case list():
            return [_without_titles(each) for each in part]
    return part


def _reference(name: str) -> str:
    return f"#/components/schemas/{name}"


def _references(part: Any) -> set[str]:
    return set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(part)))
