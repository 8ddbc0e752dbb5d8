"""POST /v1/completions: OpenAI's plain completion of one or several prompts."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import OPENAI
from textgen_server.api.headers import compute_characters, compute_type, reply_headers
from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.openai import ERRORS, EVENTS, ChunkWriter, envelope, finish_reason, usage
from textgen_server.api.schemas.completions import CompletionChoice, CompletionReply, CompletionRequest
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.text.generation import Generation, interleave
from textgen_server.text.request import GenerationRequest

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(refuse_while_draining)])


@router.post("/v1/completions", response_model=CompletionReply, responses={**ERRORS, **EVENTS})
async def completions(body: CompletionRequest, request: Request, context: Context) -> Response:
    """Continue one or several prompts."""
    requests = body.to_generations(context.settings)
    if not body.stream:
        return await while_connected(request, _complete(requests, context))
    headers = {"x-compute-type": compute_type(context.engine.info)}
    return EventStream(_events(requests, context, body.includes_usage, headers), headers, OPENAI)


async def _complete(requests: list[GenerationRequest], context: ServerContext) -> Response:
    async with context.generator.begin(requests) as generations, aclosing(interleave(generations)) as pieces:
        async for _ in pieces:
            pass
    reply = CompletionReply(
        **envelope("cmpl", "text_completion", context.settings.model_name),
        choices=[_choice(index, generation) for index, generation in enumerate(generations)],
        usage=usage(generations),
    )
    headers = reply_headers(context.engine.info, generations)
    return Response(reply.to_json(), headers=headers, media_type="application/json")


def _choice(index: int, generation: Generation) -> CompletionChoice:
    reason = finish_reason(generation.finish_reason)
    return CompletionChoice(index=index, text=generation.text, logprobs=None, finish_reason=reason)


async def _events(
    requests: list[GenerationRequest], context: ServerContext, include_usage: bool, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    chunks = ChunkWriter(envelope("cmpl", "text_completion", context.settings.model_name), include_usage)
    async with context.generator.begin(requests) as generations:
        headers["x-compute-characters"] = compute_characters(generations)
        unfinished = len(generations)
        async with aclosing(interleave(generations)) as pieces:
            async for index, piece in pieces:
                if piece.finish:
                    unfinished -= 1
                    last = chunks.chunk(_choice_json(index, piece.delta, finish_reason(piece.finish)))
                    yield last if unfinished else last + chunks.end(generations)
                elif piece.delta:
                    yield chunks.chunk(_choice_json(index, piece.delta, None))


def _choice_json(index: int, text: str, reason: str | None) -> bytes:
    ending = (index, orjson.dumps(text), orjson.dumps(reason))
    return b'{"index":%d,"text":%s,"logprobs":null,"finish_reason":%s}' % ending
