"""Triton's generate extension of the Open Inference Protocol: /v2/models/{model_name}/generate and generate_stream."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import GENERATE
from textgen_server.api.headers import compute_characters, reply_headers
from textgen_server.api.predictor.inference import full_text, likeliest, samples
from textgen_server.api.routes.kserve import ERRORS
from textgen_server.api.routes.model_path import ModelName, model_route
from textgen_server.api.routes.tensor_body import TensorRoute
from textgen_server.api.schemas.kserve import (
    GenerateTextDetails,
    GenerateTextReply,
    GenerateTextRequest,
    KServeErrorReply,
    StreamTextReply,
)
from textgen_server.api.schemas.tgi import TokenReply
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.text.generation import Generation, Piece, run_all
from textgen_server.text.request import GenerationRequest

_ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: reply for status, reply in ERRORS.items() if status != 500},
    422: {"model": KServeErrorReply, "description": "A value is wrong"},
    424: {"model": KServeErrorReply, "description": "The engine failed on this request"},
}
_EVENT_SCHEMA = {"$ref": "#/components/schemas/StreamTextReply", "type": "object"}
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EventStream.media_type: {"schema": _EVENT_SCHEMA}}}}

router = APIRouter(tags=["KServe"], route_class=TensorRoute, dependencies=[Depends(refuse_while_draining)])


@model_route(router, "POST", "/generate", response_model=GenerateTextReply, responses=_ERRORS)
async def generate_text(
    model_name: ModelName, body: GenerateTextRequest, request: Request, context: Context
) -> Response:
    """Continue a prompt; the reply comes when it is complete."""
    return await while_connected(request, _complete(model_name, body, context))


@model_route(
    router,
    "POST",
    "/generate_stream",
    status_code=200,
    response_class=EventStream,
    response_model=StreamTextReply,
    responses={**_ERRORS, **_EVENTS},
)
async def generate_text_stream(model_name: ModelName, body: GenerateTextRequest, context: Context) -> Response:
    """Continue a prompt; what each token adds to the text is sent as it comes, in a server-sent event."""
    headers = {"x-compute-type": context.compute_type}
    return EventStream(partial(_produce, model_name, body, context, headers), headers, GENERATE)


def _request(
    model_name: str, body: GenerateTextRequest, context: ServerContext, stream: bool = False
) -> GenerationRequest:
    adapter = context.models.adapter_of_model(model_name)
    return body.asked.to_generation(body.text_input, "text_input", adapter, context.models, stream)


async def _complete(model_name: str, body: GenerateTextRequest, context: ServerContext) -> Response:
    request = _request(model_name, body, context)
    tokens: defaultdict[int, list[Piece]] = defaultdict(list)
    async with context.generator.begin(samples([request], context)) as generations:
        await run_all(generations, lambda index, piece: tokens[index].append(piece))
    (best,) = likeliest(generations)
    reply = GenerateTextReply(model_name=model_name, text_output=full_text(best, body.asked))
    if body.id is not None:
        reply.id = body.id
    if body.asked.details:
        reply.details = _details(best, tokens[generations.index(best)])
    headers = reply_headers(context.compute_type, generations)
    return Response(reply.to_json(), headers=headers, media_type="application/json")


def _details(generation: Generation, pieces: list[Piece]) -> GenerateTextDetails:
    ending: dict[str, Any] = {"finish_reason": generation.finish_reason}
    return GenerateTextDetails(logprobs=[TokenReply(**_token(piece)) for piece in pieces], **ending)


def _token(piece: Piece) -> dict[str, Any]:
    return {"id": piece.id, "text": piece.text, "logprob": piece.logprob, "special": piece.special}


async def _produce(
    model_name: str,
    body: GenerateTextRequest,
    context: ServerContext,
    headers: dict[str, str],
    send: Callable[[bytes], None],
) -> None:
    request = _request(model_name, body, context, stream=True)
    head = {"model_name": model_name} if body.id is None else {"id": body.id, "model_name": model_name}
    prompt = body.text_input if body.asked.wants_full_text() else ""
    details = bool(body.asked.details)
    async with context.generator.begin([request]) as [generation]:
        headers["x-compute-characters"] = compute_characters([generation])

        def send_piece(piece: Piece) -> None:
            nonlocal prompt
            if piece.delta or piece.finish or details:
                send(_event(head, prompt + piece.delta, piece if details else None))
                prompt = ""

        await generation.run(send_piece)


def _event(head: dict[str, str], text: str, piece: Piece | None) -> bytes:
    event: dict[str, Any] = {**head, "text_output": text}
    if piece is not None:
        event["details"] = {"finish_reason": piece.finish or None, "token": _token(piece)}
    return b"data: " + orjson.dumps(event) + b"\n\n"
