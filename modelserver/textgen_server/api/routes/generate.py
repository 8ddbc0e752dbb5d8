"""TGI's routes that generate: POST /generate, /generate_stream and /."""

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import TGI
from textgen_server.api.headers import compute_characters, reply_headers
from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.schemas.tgi import (
    BestOfSequence,
    CompatGenerateRequest,
    Details,
    ErrorReply,
    GenerateReply,
    GenerateRequest,
    StreamReply,
)
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.text.generation import Generation, Piece, run_all
from textgen_server.text.tokenizer import Tokenizer

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": meaning}
    for status, meaning in {
        413: "The body is too large",
        422: "A value is wrong",
        424: "The engine failed on this request",
        429: "Too many requests; see Retry-After",
        503: "The engine is unavailable, or the server is shutting down",
    }.items()
}
# The schema is in the document because /generate_stream has it as its response model; the type beside the reference
# overrides FastAPI's guess that events are strings.
_EVENT_SCHEMA = {"$ref": "#/components/schemas/StreamReply", "type": "object"}
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EventStream.media_type: {"schema": _EVENT_SCHEMA}}}}

router = APIRouter(tags=["TGI"], route_class=JsonRoute, dependencies=[Depends(refuse_while_draining)])


@router.post("/generate", response_model=GenerateReply, responses=_ERRORS)
async def generate(body: GenerateRequest, request: Request, context: Context) -> Response:
    """Continue a prompt; the reply comes when it is complete."""
    return await while_connected(request, _complete(body, context, full_text=body.wants_full_text()))


@router.post(
    "/generate_stream",
    status_code=200,
    response_class=EventStream,
    response_model=StreamReply,
    responses={**_ERRORS, **_EVENTS},
)
async def generate_stream(body: GenerateRequest, context: Context) -> Response:
    """Continue a prompt; every token is sent as it comes, in a server-sent event."""
    return _stream(body, context, full_text=body.wants_full_text())


@router.post("/", response_model=list[GenerateReply], responses={**_ERRORS, **_EVENTS})
async def compat_generate(body: CompatGenerateRequest, request: Request, context: Context) -> Response:
    """The old inference API: as /generate, in an array of one, or as /generate_stream if `stream` is true."""
    full_text = body.wants_full_text(default=True)
    if body.stream:
        return _stream(body, context, full_text)
    return await while_connected(request, _complete(body, context, full_text, in_array=True))


async def _complete(body: GenerateRequest, context: ServerContext, full_text: bool, in_array: bool = False) -> Response:
    request = body.to_generation(context.models)
    tokenizer, prompt = context.encoder.tokenizer, body.inputs if full_text else ""
    async with context.generator.begin(request.best_of_samples(context.settings.max_best_of)) as generations:
        sequences = await _collect(generations)
    best = max(sequences, key=lambda sequence: sequence[0].mean_logprob)
    reply = GenerateReply(generated_text=prompt + best[0].text)
    if body.wants_details:
        reply.details = Details(**_details(*best, tokenizer))
        others = [sequence for sequence in sequences if sequence is not best]
        if others:
            reply.details.best_of_sequences = [
                BestOfSequence(generated_text=prompt + generation.text, **_details(generation, pieces, tokenizer))
                for generation, pieces in others
            ]
    content = b"[" + reply.to_json() + b"]" if in_array else reply.to_json()
    return Response(content, headers=reply_headers(context.compute_type, [best[0]]), media_type="application/json")


async def _collect(generations: list[Generation]) -> list[tuple[Generation, list[Piece]]]:
    """All generations to their ends, with their pieces."""
    sequences: list[tuple[Generation, list[Piece]]] = [(generation, []) for generation in generations]
    await run_all(generations, lambda index, piece: sequences[index][1].append(piece))
    return sequences


def _details(generation: Generation, pieces: list[Piece], tokenizer: Tokenizer) -> dict[str, Any]:
    details: dict[str, Any] = {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.generated_tokens,
        "seed": generation.seed,
        "prefill": _prefill(generation, tokenizer) if generation.request.prompt_logprobs else [],
        "tokens": [_token(piece) for piece in pieces],
    }
    if generation.request.top_tokens:
        details["top_tokens"] = [_alternatives(piece, tokenizer) for piece in pieces]
    return details


def _token(piece: Piece) -> dict[str, Any]:
    return {"id": piece.id, "text": piece.text, "logprob": piece.logprob, "special": piece.special}


def _prefill(generation: Generation, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    logprobs = [None, *generation.start.prompt_logprobs]
    return [
        {"id": id, "text": tokenizer.text_of(id), "logprob": logprob}
        for id, logprob in zip(generation.scored_ids, logprobs, strict=True)
    ]


def _alternatives(piece: Piece, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [
        {"id": id, "text": tokenizer.text_of(id), "logprob": logprob, "special": id in tokenizer.special_ids}
        for id, logprob in piece.top
    ]


def _stream(body: GenerateRequest, context: ServerContext, full_text: bool) -> EventStream:
    headers = {"x-compute-type": context.compute_type}
    return EventStream(partial(_produce, body, context, full_text, headers), headers, TGI)


async def _produce(
    body: GenerateRequest,
    context: ServerContext,
    full_text: bool,
    headers: dict[str, str],
    send: Callable[[bytes], None],
) -> None:
    request = body.to_generation(context.models, stream=True)
    async with context.generator.begin([request]) as [generation]:
        headers["x-compute-characters"] = compute_characters([generation])

        def send_piece(piece: Piece) -> None:
            event = _event(piece, generation, context.encoder.tokenizer)
            if piece.finish:
                event["generated_text"] = body.inputs + generation.text if full_text else generation.text
                event["details"] = _stream_details(generation) if body.wants_stream_details else None
            send(b"data: " + orjson.dumps(event) + b"\n\n")

        await generation.run(send_piece)


def _event(piece: Piece, generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    event = {"index": generation.generated_tokens, "token": _token(piece)}
    if generation.request.top_tokens:
        event["top_tokens"] = _alternatives(piece, tokenizer)
    return event | {"generated_text": None, "details": None}


def _stream_details(generation: Generation) -> dict[str, Any]:
    return {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.generated_tokens,
        "seed": generation.seed,
        "input_length": len(generation.prompt.ids),
    }
