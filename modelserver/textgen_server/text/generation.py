"""A request from the client's words to its last piece of text: checked, admitted, tokenized, generated, detokenized,
stopped. The one place that drives the engine; the routes of api/ turn its pieces into their replies.

    async with generator.begin([request]) as [generation]:
        await generation.run(on_piece)

Leaving the block, by an error or a cancellation too, ends the engine's work for it and frees its place. Between a token
on the engine's wire and `on_piece` there are only function calls, because tasks and queues cost more than all the rest.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, Protocol

from textgen_server.errors import DeadlineExceeded, IncompleteGeneration, IncompleteStream, InvalidRequest, TextgenError
from textgen_server.rpc.client import Alternatives, Engine, EngineRequest, Start, Token
from textgen_server.settings import ServerOptions
from textgen_server.text.admission import Admission
from textgen_server.text.detokenizer import Detokenizer
from textgen_server.text.prompt import EncodedPrompt, PromptEncoder
from textgen_server.text.request import GenerationRequest, Limits
from textgen_server.text.stop import StopMatcher
from textgen_server.text.tenant import key_holder, tenant_named
from textgen_server.text.tokenizer import Tokenizer

DROPPED: Final = "dropped"
"""Why a request failed whose client left."""


@dataclass(slots=True)
class Piece:
    """One generated token.

    Attributes:
        text: the token's own text, that of special tokens too; "" while it is only a part of a character.
        delta: what it adds to the generated text: no special tokens, and with `keep_stop_text` off neither stop
            strings nor, yet, text that may become one.
        finish: "", or on the last piece "length", "eos_token" or "stop_sequence".
        top: ids and log-probabilities of the likeliest tokens of its place, where asked for.
    """

    id: int
    logprob: float
    special: bool
    text: str
    delta: str
    finish: str
    top: Alternatives = ()


@dataclass(slots=True)
class Times:
    """When things happened, in seconds of `time.perf_counter`; 0 for what has not happened yet."""

    received: float
    validated: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    queue_seconds: float = 0.0  # as the engine measured it

    @property
    def validation(self) -> float:
        """Seconds until the prompt was in tokens and its limits checked."""
        return self.validated - self.received

    @property
    def inference(self) -> float:
        """Seconds that the engine worked on the request."""
        return self.total - self.validation - self.queue_seconds

    @property
    def total(self) -> float:
        """Seconds from the request's arrival to its last token."""
        return self.last_token - self.received


class Observer(Protocol):
    """Hears of what happens to requests (api/metrics.py counts it)."""

    def received(self, requests: int) -> None: ...

    def admitted(self, adapter: str) -> None:
        """A request has got a place."""

    def left(self, adapter: str) -> None:
        """A request has given its place back."""

    def first_token(self, seconds: float, adapter: str) -> None:
        """`seconds` since the request came."""

    def next_token(self, seconds: float, adapter: str) -> None:
        """`seconds` since the request's token before."""

    def finished(self, generation: "Generation") -> None: ...

    def failed(self, label: str) -> None:
        """A request failed. `label` is an error's `failure_label`, or `DROPPED` when the client left."""


class Generation:
    """One prompt on its way to its text.

    Attributes:
        request: what the client asked for.
        prompt: the prompt's tokens.
        engine_request: what the engine is asked for.
        generated_tokens: so far, the end-of-sequence token included.
        finish_reason: "" until the last piece; then as in `Piece.finish`.
        start: what came with the first token, prompt log-probabilities among it.
        mean_logprob: of the generated tokens, by which `best_of` chooses.
        times: see `Times`.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: EncodedPrompt,
        engine_request: EngineRequest,
        engine: Engine,
        tokenizer: Tokenizer,
        times: Times,
        observer: Observer,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.engine_request = engine_request
        self.generated_tokens = 0
        self.finish_reason = ""
        self.start = Start()
        self.times = times
        self._engine = engine
        self._special_ids = tokenizer.special_ids - request.shown_tokens
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopMatcher(request.stop, keep=request.keep_stop_text)
        self._observer = observer
        self._deltas: list[str] = []
        self._logprobs = 0.0
        self._on_piece: Callable[[Piece], object]
        self._ended: asyncio.Future[None]

    @property
    def mean_logprob(self) -> float:
        return self._logprobs / max(self.generated_tokens, 1)

    @property
    def scored_ids(self) -> list[int]:
        """The tokens of `start.prompt_logprobs` with the one before them: the prompt, or a decoder's start token."""
        info = self._engine.info
        return [info.decoder_start_token] if info.HasField("decoder_start_token") else self.prompt.ids

    @property
    def text(self) -> str:
        """The text generated so far."""
        return "".join(self._deltas)

    @property
    def seed(self) -> int | None:
        """The seed that was used, or None where nothing was drawn."""
        sampling = self.engine_request.sampling
        return None if sampling.greedy else sampling.seed

    async def run(self, on_piece: Callable[[Piece], object]) -> None:
        """Generate to the end. To be done once; cancelling it ends the engine's work.

        Args:
            on_piece: is given the tokens as they come, the last with `finish` set; called from the engine's side,
                between tasks, so it should return soon. What it raises ends the generation.

        Raises:
            EngineUnavailable, GenerationError: the engine failed.
            InvalidRequest, Overloaded: the engine refuses the request, or has had no time for it.
            IncompleteGeneration: the engine ended the request without a last token.
        """
        self._on_piece = on_piece
        self._ended = asyncio.get_running_loop().create_future()
        stop = self._engine.submit(self.engine_request, self)
        try:
            await self._ended
        except IncompleteGeneration as error:
            incomplete = IncompleteStream if self.request.stream else IncompleteGeneration
            raise incomplete(f"Incomplete generation: {error}") from None
        finally:
            stop()
            if self.finish_reason:
                self._observer.finished(self)

    def take(self, token: Token) -> None:
        """See rpc.client.Receiver."""
        if self._ended.done():
            return
        try:
            piece = self._piece(token)
            self._on_piece(piece)
        except Exception as error:
            self.finish_reason = ""
            self.fail(error)
        else:
            if piece.finish:
                self._ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """See rpc.client.Receiver."""
        if not self._ended.done():
            self._ended.set_exception(error)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """`run` for who has to wait between pieces. To be closed if not iterated to the end."""
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        running = asyncio.create_task(self.run(queue.put_nowait))
        running.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _piece(self, token: Token) -> Piece:
        self._clock(token)
        special = token.id in self._special_ids
        plain = "" if special else self._detokenizer.push(token.id)
        if token.finish:
            plain += self._detokenizer.flush()
        delta, stopped = self._stop.push(plain)
        if token.finish and not stopped:
            delta += self._stop.flush()
        self._deltas.append(delta)
        self.finish_reason = "stop_sequence" if stopped else token.finish
        # A stop string that stays in the text also ends its last token's text.
        text = delta if stopped else plain
        if special:
            text += self._tokenizer.bytes_of(token.id).decode(errors="replace")
        return Piece(token.id, token.logprob, special, text, delta, self.finish_reason, token.top)

    def _clock(self, token: Token) -> None:
        now, times = perf_counter(), self.times
        self.generated_tokens += 1
        self._logprobs += token.logprob
        if token.start is not None:
            self.start = token.start
            times.first_token = now
            times.queue_seconds = token.start.queue_seconds
            self._observer.first_token(now - times.received, self.request.adapter)
        else:
            self._observer.next_token(now - times.last_token, self.request.adapter)
        times.last_token = now


class TextGenerator:
    """Drives generations on one engine.

    Attributes:
        admission: the places of requests in flight.
    """

    def __init__(self, engine: Engine, encoder: PromptEncoder, settings: ServerOptions, observer: Observer) -> None:
        self.admission = Admission(settings.max_concurrent_requests)
        self._engine = engine
        self._encoder = encoder
        self._settings = settings
        self._observer = observer

    @asynccontextmanager
    async def begin(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[list[Generation]]:
        """Check, admit and tokenize `requests`, each of which takes a place until the block is left.

        Raises:
            InvalidRequest, TemplateError: a request is wrong, by its own rules or by its length.
            Overloaded: there are too few places; nothing was tokenized.
            DeadlineExceeded: the block was not left within --request-timeout.
        """
        received = perf_counter()
        generations: list[Generation] = []
        self._observer.received(len(requests))
        try:
            async with _deadline(self._settings.request_timeout):
                limits = self._limits()
                for request in requests:
                    request.check(limits)
                with self.admission.hold(len(requests)), self._in_flight(requests):
                    for request in requests:
                        generations.append(await self._prepare(request, limits, Times(received), generations))
                    yield generations
        except BaseException as error:
            finished = sum(generation.finish_reason != "" for generation in generations)
            for _ in range(len(requests) - finished):
                self._observer.failed(_failure_label(error))
            raise

    @contextmanager
    def _in_flight(self, requests: Sequence[GenerationRequest]) -> Iterator[None]:
        for request in requests:
            self._observer.admitted(request.adapter)
        try:
            yield
        finally:
            for request in requests:
                self._observer.left(request.adapter)

    async def _prepare(
        self, request: GenerationRequest, limits: Limits, times: Times, siblings: list[Generation]
    ) -> Generation:
        prompt = await self._encode(request, siblings)
        tokenizer = self._encoder.tokenizer
        _check_known(prompt.ids, tokenizer, limits, request.dialect.inputs)
        new_tokens = request.new_tokens(len(prompt.ids), limits)
        if request.grammar is not None:
            await self._encoder.grammars.check(request.grammar, request.dialect.grammar)
        engine_request = EngineRequest(
            prompt=prompt.ids,
            max_new_tokens=new_tokens,
            sampling=request.sampling(limits.vocab_size),
            stop_tokens=() if request.ignore_eos else tuple(sorted(tokenizer.eos_ids)),
            prompt_logprobs=request.prompt_logprobs,
            grammar=request.grammar,
            adapter=request.adapter,
            queue_timeout=self._settings.queue_timeout,
            tenant=key_holder.get() or tenant_named(request.user),
            priority=request.priority,
        )
        times.validated = perf_counter()
        return Generation(request, prompt, engine_request, self._engine, tokenizer, times, self._observer)

    async def _encode(self, request: GenerationRequest, siblings: list[Generation]) -> EncodedPrompt:
        # Several samples of one request share its prompt.
        if siblings and siblings[-1].request.prompt is request.prompt:
            return siblings[-1].prompt
        return await self._encoder.encode(request.prompt, request.truncate)

    def _limits(self) -> Limits:
        settings, info = self._settings, self._engine.info
        return Limits(
            max_best_of=settings.max_best_of,
            max_stop_sequences=settings.max_stop_sequences,
            max_top_n_tokens=settings.max_top_n_tokens,
            max_input_tokens=info.max_input_tokens,
            max_total_tokens=info.max_total_tokens,
            vocab_size=info.vocab_size,
            grammars=not settings.disable_grammar_support,
        )


def _check_known(ids: list[int], tokenizer: Tokenizer, limits: Limits, field: str) -> None:
    """Raise InvalidRequest where the tokenizer has made a token of the prompt that the model does not have."""
    if tokenizer.size > limits.vocab_size and max(ids, default=0) >= limits.vocab_size:
        text = tokenizer.text_of(max(ids))
        raise InvalidRequest(
            f"`{field}` contains {text!r}, a token of the tokenizer that the model does not have", field
        )


def _failure_label(error: BaseException) -> str:
    # A client that leaves cancels the task that serves it, or closes the generator that does.
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return DROPPED
    return error.failure_label if isinstance(error, TextgenError) else TextgenError.failure_label


@asynccontextmanager
async def _deadline(seconds: float | None) -> AsyncIterator[None]:
    """Ends the block with DeadlineExceeded after so many seconds, if any."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineExceeded(f"The request took longer than {seconds:g} seconds") from None


async def run_all(
    generations: Sequence[Generation], on_piece: Callable[[int, Piece], object] = lambda index, piece: None
) -> None:
    """All of them at once, as `Generation.run`; `on_piece` is also given the generation's index. The first error ends
    all."""
    if len(generations) == 1:
        await generations[0].run(partial(on_piece, 0))
        return
    tasks = [asyncio.create_task(one.run(partial(on_piece, index))) for index, one in enumerate(generations)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
