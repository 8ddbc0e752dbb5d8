"""POST /v1/completions: OpenAI's plain completion of one or several prompts."""

from collections.abc import Callable, Sequence
from functools import partial

import orjson
from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.errors import OPENAI
from textgen_server.api.headers import compute_characters, reply_headers
from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.logprobs import CompletionTokens, PlacedPieces
from textgen_server.api.routes.openai import ERRORS, ChunkWriter, envelope, events_of, finish_reason, usage
from textgen_server.api.schemas.completions import (
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    CompletionReply,
    CompletionRequest,
)
from textgen_server.api.schemas.openai import FinishReason
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import EventStream, while_connected
from textgen_server.text.generation import Generation, Piece, run_all
from textgen_server.text.request import GenerationRequest
from textgen_server.text.tokenizer import Tokenizer

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(refuse_while_draining)])


@router.post("/v1/completions", response_model=CompletionReply, responses={**ERRORS, **events_of(CompletionChunk)})
async def completions(body: CompletionRequest, request: Request, context: Context) -> Response:
    """Continue one or several prompts."""
    requests = body.to_generations(context.models, context.settings.max_client_batch_size)
    if not body.stream:
        return await while_connected(request, _complete(body, requests, context))
    headers = {"x-compute-type": context.compute_type}
    return EventStream(partial(_produce, body, requests, context, headers), headers, OPENAI)


async def _complete(body: CompletionRequest, requests: list[GenerationRequest], context: ServerContext) -> Response:
    async with context.generator.begin(requests) as generations:
        candidates = [_Candidate(generation, body, context.encoder.tokenizer) for generation in generations]
        await run_all(generations, lambda index, piece: candidates[index].add(piece))
    chosen = _best(candidates, body)
    reply = CompletionReply(
        **envelope("cmpl", "text_completion", requests[0].adapter or context.models.base),
        choices=[candidate.choice(index) for index, candidate in enumerate(chosen)],
        usage=usage(generations, body.candidates, body.only_echoes),
    )
    headers = reply_headers(context.compute_type, generations)
    return Response(reply.to_json(), headers=headers, media_type="application/json")


async def _produce(
    body: CompletionRequest,
    requests: list[GenerationRequest],
    context: ServerContext,
    headers: dict[str, str],
    send: Callable[[bytes], None],
) -> None:
    model = requests[0].adapter or context.models.base
    chunks = ChunkWriter(envelope("cmpl", "text_completion", model), body.includes_usage)
    async with context.generator.begin(requests) as generations:
        headers["x-compute-characters"] = compute_characters(generations)
        candidates = [_Candidate(generation, body, context.encoder.tokenizer) for generation in generations]

        def send_piece(index: int, piece: Piece) -> None:
            text = candidates[index].add(piece)
            if text or piece.finish:
                send(chunks.chunk(candidates[index].json(index, text)))

        await run_all(generations, send_piece)
        send(chunks.end(usage(generations, body.candidates, body.only_echoes)))


class _Candidate:
    """One generation on its way to a choice."""

    def __init__(self, generation: Generation, body: CompletionRequest, tokenizer: Tokenizer) -> None:
        self.generation = generation
        self._echo = _echoed(generation, tokenizer) if body.echo else ""
        self._only_echoes = body.only_echoes
        self._tokens = None if body.logprobs is None else CompletionTokens(tokenizer, body.logprobs)
        self._placed = PlacedPieces()
        self._begun = False

    def add(self, piece: Piece) -> str:
        """The text that `piece` adds to the choice."""
        text = ""
        if not self._begun:
            self._begun = True
            text = self._echo
            if self._tokens and self.generation.request.prompt_logprobs:
                self._tokens.add_prompt(self.generation, self._echo)
        if self._only_echoes:
            return text
        if self._tokens:
            self._tokens.add(self._placed.push(piece), shift=len(self._echo))
        return text + piece.delta

    def choice(self, index: int) -> CompletionChoice:
        """The whole choice."""
        text = self._echo if self._only_echoes else self._echo + self.generation.text
        logprobs = CompletionLogprobs(**self._tokens.take()) if self._tokens else None
        return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=self._reason)

    def json(self, index: int, text: str) -> bytes:
        """A chunk's choice, which brings `text`."""
        logprobs = orjson.dumps(self._tokens.take()) if self._tokens else b"null"
        reason = b'"%s"' % self._reason.encode() if self.generation.finish_reason else b"null"
        values = (index, orjson.dumps(text), logprobs, reason)
        return b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s}' % values

    @property
    def _reason(self) -> FinishReason:
        return "length" if self._only_echoes else finish_reason(self.generation.finish_reason)


def _best(candidates: Sequence[_Candidate], body: CompletionRequest) -> list[_Candidate]:
    """For each prompt the `n` candidates that are likeliest per token; all in their order where none is left out."""
    if body.candidates == body.choices:
        return list(candidates)
    chosen: list[_Candidate] = []
    for first in range(0, len(candidates), body.candidates):
        group = candidates[first : first + body.candidates]
        ranked = sorted(group, key=lambda each: each.generation.mean_logprob, reverse=True)
        chosen += ranked[: body.choices]
    return chosen


def _echoed(generation: Generation, tokenizer: Tokenizer) -> str:
    """The prompt as text. A prompt in token ids may begin with a BOS, which is not text."""
    prompt = generation.request.prompt
    if isinstance(prompt, str):
        return prompt
    ids = generation.prompt.ids
    return tokenizer.decode(ids[1:] if ids[0] == tokenizer.bos_id else ids)
