"""The routes by which clouds call a container: Amazon SageMaker's /ping and /invocations, Vertex AI's /vertex."""

from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from starlette.types import Message, Receive, Scope, Send

from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.openai import events_of
from textgen_server.api.schemas.chat import ChatCompletionChunk, ChatCompletionReply, ChatCompletionRequest
from textgen_server.api.schemas.completions import CompletionChunk, CompletionReply, CompletionRequest
from textgen_server.api.schemas.tgi import (
    CompatGenerateRequest,
    ErrorReply,
    GenerateReply,
    GenerateRequest,
    StreamReply,
    VertexReply,
    VertexRequest,
)
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import while_connected
from textgen_server.errors import InvalidRequest
from textgen_server.text.generation import Generation, run_all
from textgen_server.text.request import GenerationRequest

router = APIRouter(tags=["Clouds"], route_class=JsonRoute)

_REFUSED: dict[int | str, dict[str, Any]] = {429: {"model": ErrorReply, "description": "Too many requests"}}

# The route that answers a body of /invocations, by the field that only its bodies have; the first that is there counts.
_ROUTE_OF_FIELD = {"inputs": "/", "messages": "/v1/chat/completions", "prompt": "/v1/completions"}


@router.get("/ping", response_class=Response, responses={503: {"model": ErrorReply}})
async def ping(context: Context) -> Response:
    """As /health: 200 with an empty body while requests can be served."""
    context.require_ready()
    return Response()


@router.post(
    "/invocations",
    response_model=list[GenerateReply] | ChatCompletionReply | CompletionReply,
    responses={**events_of(StreamReply, ChatCompletionChunk, CompletionChunk), **_REFUSED},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"$ref": f"#/components/schemas/{body.__name__}"}
                            for body in (CompatGenerateRequest, ChatCompletionRequest, CompletionRequest)
                        ]
                    }
                }
            },
        }
    },
)
async def invocations(request: Request) -> Response:
    """What `/`, /v1/chat/completions and /v1/completions do: a body with `inputs`, `messages` or `prompt` is answered
    as by its own route, errors and streams too."""
    body = await request.body()
    return _Forwarded(_route_of(body), body)


def _route_of(body: bytes) -> str:
    """The path of the route whose body this is. What is no JSON object is left to `/`, to say so."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "/"
    if not isinstance(value, dict):
        return "/"
    path = next((path for field, path in _ROUTE_OF_FIELD.items() if field in value), None)
    if path is None:
        raise InvalidRequest("the body must have `inputs`, `messages` or `prompt`")
    return path


class _Forwarded(Response):
    """The reply of another route of this application to a request whose body has been read."""

    def __init__(self, path: str, body: bytes) -> None:
        super().__init__()
        self._path = path
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        unread = True

        async def again() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": self._body, "more_body": False}
            return await receive()

        forwarded = {**scope, "path": self._path, "raw_path": self._path.encode()}
        await scope["app"].router(forwarded, again, send)


@router.post("/vertex", response_model=VertexReply, responses=_REFUSED, dependencies=[Depends(refuse_while_draining)])
async def vertex(body: VertexRequest, request: Request, context: Context) -> Response:
    """Continue prompts or conversations: one text for each instance, in their order. Tokens are drawn unless
    `do_sample` is false; of several samples of an instance the likeliest is its prediction."""
    return await while_connected(request, _predict(body, context))


async def _predict(body: VertexRequest, context: ServerContext) -> Response:
    samples = [_samples(instance, context) for instance in body.instances]
    requests = [request for each in samples for request in each]
    async with context.generator.begin(requests) as generations:
        await run_all(generations)
    left = iter(generations)
    predictions = []
    for instance, each in zip(body.instances, samples, strict=True):
        best = max((next(left) for _ in each), key=lambda generation: generation.mean_logprob)
        predictions.append(_prediction(instance, best))
    return Response(VertexReply(predictions=predictions).to_json(), media_type="application/json")


def _samples(instance: GenerateRequest | ChatCompletionRequest, context: ServerContext) -> list[GenerationRequest]:
    if isinstance(instance, ChatCompletionRequest):
        return instance.to_generations(context.models, context.encoder, context.engine.info.vocab_size)
    request = instance.to_generation(context.models)
    if instance.parameters is None or instance.parameters.do_sample is None:
        request = replace(request, do_sample=True)
    return request.best_of_samples(context.settings.max_best_of)


def _prediction(instance: GenerateRequest | ChatCompletionRequest, generation: Generation) -> str:
    if isinstance(instance, GenerateRequest) and instance.wants_full_text():
        return instance.inputs + generation.text
    return generation.text
