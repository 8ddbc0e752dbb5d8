"""POST /v1/chat/completions: OpenAI's conversation, written as a prompt by the model's chat template."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import OPENAI
from textgen_server.api.headers import compute_characters, reply_headers
from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.logprobs import PlacedPieces, chat_logprobs
from textgen_server.api.routes.openai import ERRORS, ChunkWriter, envelope, events_of, finish_reason, usage
from textgen_server.api.schemas.chat import (
    TOOLS,
    ChatChoice,
    ChatCompletionChunk,
    ChatCompletionReply,
    ChatCompletionRequest,
    ChatLogprobs,
    ChatMessageReply,
    FunctionReply,
    ToolCallReply,
)
from textgen_server.api.schemas.openai import FinishReason
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.errors import InvalidRequest
from textgen_server.text.generation import Generation, Piece, run_all
from textgen_server.text.request import GenerationRequest
from textgen_server.text.tools.calls import Answer, CallDelta, Delta, TextDelta
from textgen_server.text.tools.parser import CallParser

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(refuse_while_draining)])

_TEXT_TAIL = b'},"logprobs":null,"finish_reason":null}'


@router.post(
    "/v1/chat/completions", response_model=ChatCompletionReply, responses={**ERRORS, **events_of(ChatCompletionChunk)}
)
async def chat_completions(body: ChatCompletionRequest, request: Request, context: Context) -> Response:
    """Write the next message of a conversation."""
    requests = body.to_generations(context.models, context.encoder, context.engine.info.vocab_size)
    if not body.stream:
        return await while_connected(request, _complete(body, requests, context))
    headers = {"x-compute-type": context.compute_type}
    return EventStream(partial(_produce, body, requests, context, headers), headers, OPENAI)


async def _complete(body: ChatCompletionRequest, requests: list[GenerationRequest], context: ServerContext) -> Response:
    async with _begin(body, requests, context) as generations:
        messages = [_Message(generation, body, context) for generation in generations]
        answers = [Answer() for _ in generations]

        def add_piece(index: int, piece: Piece) -> None:
            for delta in messages[index].push(piece):
                answers[index].add(delta)

        await run_all(generations, add_piece)
    reply = ChatCompletionReply(
        **envelope("chatcmpl", "chat.completion", requests[0].adapter or context.models.base),
        choices=[
            message.choice(index, answer) for index, (message, answer) in enumerate(zip(messages, answers, strict=True))
        ],
        usage=usage(generations, body.choices),
    )
    headers = reply_headers(context.compute_type, generations)
    return Response(reply.to_json(), headers=headers, media_type="application/json")


async def _produce(
    body: ChatCompletionRequest,
    requests: list[GenerationRequest],
    context: ServerContext,
    headers: dict[str, str],
    send: Callable[[bytes], None],
) -> None:
    model = requests[0].adapter or context.models.base
    chunks = ChunkWriter(envelope("chatcmpl", "chat.completion.chunk", model), body.includes_usage)
    async with _begin(body, requests, context) as generations:
        headers["x-compute-characters"] = compute_characters(generations)
        writers = [
            _ChoiceWriter(index, _Message(generation, body, context)) for index, generation in enumerate(generations)
        ]

        def send_piece(index: int, piece: Piece) -> None:
            if event := b"".join([chunks.chunk(choice) for choice in writers[index].write(piece)]):
                send(event)

        await run_all(generations, send_piece)
        send(chunks.end(usage(generations, body.choices)))


@asynccontextmanager
async def _begin(
    body: ChatCompletionRequest, requests: list[GenerationRequest], context: ServerContext
) -> AsyncIterator[list[Generation]]:
    """See `TextGenerator.begin`; where the grammar of tools is wrong, the error names the tool."""
    try:
        async with context.generator.begin(requests) as generations:
            yield generations
    except InvalidRequest as error:
        if error.field == TOOLS:
            for place, tool in enumerate(body.tools or ()):
                grammar = tool.function.arguments_grammar
                await context.encoder.grammars.check(grammar, f"{TOOLS}[{place}].function.parameters")
        raise


class _Message:
    """One generation on its way to a message.

    Attributes:
        logprobs: entries of `logprobs.content` that have not been taken; None where they are not asked for.
    """

    def __init__(self, generation: Generation, body: ChatCompletionRequest, context: ServerContext) -> None:
        self.logprobs: list[dict[str, Any]] | None = [] if body.logprobs else None
        self._top = body.top_logprobs or 0
        self._generation = generation
        self._tokenizer = context.encoder.tokenizer
        self._parser = CallParser(context.encoder.call_format) if body.tool_use() else None
        self._placed = PlacedPieces()

    @property
    def may_call(self) -> bool:
        """True where the message may have calls."""
        return self._parser is not None

    @property
    def is_plain(self) -> bool:
        """True where all that a piece adds is its text."""
        return self._parser is None and self.logprobs is None

    def push(self, piece: Piece) -> list[Delta]:
        """What `piece` adds to the message."""
        if self.logprobs is not None:
            placed = [each for _, each in self._placed.push(piece)]
            self.logprobs += chat_logprobs(placed, self._tokenizer, self._top)
        if self._parser is None:
            return [TextDelta(piece.delta)] if piece.delta else []
        deltas = self._parser.push(piece.delta) if piece.delta else []
        return [*deltas, *self._parser.finish()] if piece.finish else deltas

    @property
    def reason(self) -> FinishReason:
        """Why it ended."""
        reason = finish_reason(self._generation.finish_reason)
        called = self._parser is not None and self._parser.count and not self._parser.in_call
        return "tool_calls" if reason == "stop" and called else reason

    def choice(self, index: int, answer: Answer) -> ChatChoice:
        """The whole choice, whose deltas add up to `answer`."""
        content = None if self._parser and not answer.text else answer.text
        message = ChatMessageReply(role="assistant", content=content, refusal=None)
        if answer.calls:
            message.tool_calls = [
                ToolCallReply(
                    id=call.id, type="function", function=FunctionReply(name=call.name, arguments=call.arguments)
                )
                for call in answer.calls
            ]
        logprobs = None
        if self.logprobs is not None:
            logprobs = ChatLogprobs.model_validate({"content": self.logprobs, "refusal": None})
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=self.reason)


class _ChoiceWriter:
    """Writes the choices of one message's chunks, as JSON."""

    def __init__(self, index: int, message: _Message) -> None:
        self._message = message
        self._plain = message.is_plain
        self._begun = False
        self._head = b'{"index":%d,"delta":' % index
        self._text_head = self._head + b'{"content":'

    def write(self, piece: Piece) -> list[bytes]:
        """The choices that tell what `piece` adds."""
        if self._plain and self._begun and not piece.finish:  # nearly always, so it should cost little
            return [self._text_head + orjson.dumps(piece.delta) + _TEXT_TAIL] if piece.delta else []
        deltas = self._message.push(piece)
        choices: list[bytes] = []
        # With tools, what comes first tells whether there is content.
        if not self._begun and (deltas or piece.finish or not self._message.may_call):
            self._begun = True
            content = b"null" if self._message.may_call and not (deltas and isinstance(deltas[0], TextDelta)) else b'""'
            choices.append(self._choice(b'{"role":"assistant","content":%s}' % content, b"null"))
        choices += [self._choice(_delta_json(delta), self._logprobs()) for delta in deltas]
        if piece.finish:
            choices.append(self._choice(b"{}", self._logprobs(), b'"%s"' % self._message.reason.encode()))
        return choices

    def _choice(self, delta: bytes, logprobs: bytes, reason: bytes = b"null") -> bytes:
        return self._head + delta + b',"logprobs":' + logprobs + b',"finish_reason":' + reason + b"}"

    def _logprobs(self) -> bytes:
        """Those that have not been sent."""
        if not self._message.logprobs:
            return b"null"
        entries, self._message.logprobs = self._message.logprobs, []
        return b'{"content":' + orjson.dumps(entries) + b',"refusal":null}'


def _delta_json(delta: Delta) -> bytes:
    match delta:
        case TextDelta(text):
            return b'{"content":' + orjson.dumps(text) + b"}"
        case CallDelta(number, arguments, id, name) if name:
            function = {"name": name, "arguments": arguments}
            call = {"index": number, "id": id, "type": "function", "function": function}
        case CallDelta(number, arguments):
            call = {"index": number, "function": {"arguments": arguments}}
    return b'{"tool_calls":[' + orjson.dumps(call) + b"]}"
