"""POST /v1/chat/completions: OpenAI's conversation, written as a prompt by the model's chat template."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import OPENAI
from textgen_server.api.headers import compute_characters, compute_type, reply_headers
from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.openai import ERRORS, EVENTS, ChunkWriter, envelope, finish_reason, usage
from textgen_server.api.schemas.chat import ChatChoice, ChatCompletionReply, ChatCompletionRequest, ChatMessageReply
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.text.request import GenerationRequest

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(refuse_while_draining)])

_FIRST = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'


@router.post("/v1/chat/completions", response_model=ChatCompletionReply, responses={**ERRORS, **EVENTS})
async def chat_completions(body: ChatCompletionRequest, request: Request, context: Context) -> Response:
    """Write the next message of a conversation."""
    generation_request = body.to_generation(context.settings)
    if not body.stream:
        return await while_connected(request, _complete(generation_request, context))
    headers = {"x-compute-type": compute_type(context.engine.info)}
    return EventStream(_events(generation_request, context, body.includes_usage, headers), headers, OPENAI)


async def _complete(request: GenerationRequest, context: ServerContext) -> Response:
    async with context.generator.begin([request]) as [generation], aclosing(generation.pieces()) as pieces:
        async for _ in pieces:
            pass
    message = ChatMessageReply(role="assistant", content=generation.text)
    reason = finish_reason(generation.finish_reason)
    reply = ChatCompletionReply(
        **envelope("chatcmpl", "chat.completion", context.settings.model_name),
        choices=[ChatChoice(index=0, message=message, logprobs=None, finish_reason=reason)],
        usage=usage([generation]),
    )
    headers = reply_headers(context.engine.info, [generation])
    return Response(reply.to_json(), headers=headers, media_type="application/json")


async def _events(
    request: GenerationRequest, context: ServerContext, include_usage: bool, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    chunks = ChunkWriter(envelope("chatcmpl", "chat.completion.chunk", context.settings.model_name), include_usage)
    async with context.generator.begin([request]) as generations:
        headers["x-compute-characters"] = compute_characters(generations)
        head = chunks.chunk(_FIRST)
        async with aclosing(generations[0].pieces()) as pieces:
            async for piece in pieces:
                event = head + (chunks.chunk(_content(piece.delta)) if piece.delta else b"")
                head = b""
                if piece.finish:
                    event += chunks.chunk(_last(finish_reason(piece.finish))) + chunks.end(generations)
                if event:
                    yield event


def _content(text: str) -> bytes:
    return b'{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}' % orjson.dumps(text)


def _last(reason: str) -> bytes:
    return b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%s"}' % reason.encode()
