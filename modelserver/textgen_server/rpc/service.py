"""The engine's side of the wire: messages in, the loop's events out. Runs on the engine process's main thread."""

import asyncio
import itertools
import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc

from textgen_server.engine.constraints import GrammarCompiler
from textgen_server.engine.events import Events, Failure, Output
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.plan import Constraint
from textgen_server.engine.request import Request
from textgen_server.engine.statistics import StepStatistics
from textgen_server.errors import GenerationError, InvalidRequest, TextgenError
from textgen_server.histogram import Histogram
from textgen_server.priority import Priority
from textgen_server.rpc import engine_pb2 as pb
from textgen_server.rpc import engine_pb2_grpc
from textgen_server.rpc.frames import Frames, stream_path
from textgen_server.rpc.wire import CHANNEL_OPTIONS, alternatives_to_wire, grammar_from_wire, sampling_from_wire
from textgen_server.sampling import Grammar

_log = logging.getLogger(__name__)

Key = tuple[int, int]
"""(number of the client's stream, number that the client gave the request)"""

GRAMMAR_THREADS = 2


class _Stream:
    """One API process. `open_requests` are those that have not ended."""

    frames: Frames

    def __init__(self) -> None:
        self.open_requests: set[Key] = set()


class EngineService(engine_pb2_grpc.EngineServicer):
    """Serves one engine loop to any number of API processes, each with one stream.

    Args:
        grammars: None where the model's tokenizer cannot be held to a grammar.
    """

    def __init__(self, info: pb.EngineInfo, grammars: GrammarCompiler | None = None) -> None:
        self._info = info
        self._grammars = grammars
        self._threads = ThreadPoolExecutor(GRAMMAR_THREADS, thread_name_prefix="grammar")
        self._constraining: set[asyncio.Task[None]] = set()
        self._asyncio = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        self._numbers = itertools.count()
        self._loop: EngineLoop

    def attach(self, loop: EngineLoop) -> None:
        """Tell the service which loop it serves, before it is started."""
        self._loop = loop

    def publish(self, events: Events) -> None:
        """The loop's outlet; called on the loop's thread."""
        self._asyncio.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: Events) -> None:
        for number, message in step_messages(events).items():
            stream = self._streams.get(number)
            if stream is not None:
                stream.open_requests.difference_update((number, request) for request in _ended(message))
                stream.frames.send(message)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.EngineInfo:
        return self._info

    async def ChangeAdapter(self, request: pb.AdapterChange, context: Any) -> pb.AdapterReply:
        if request.folder:
            done = self._loop.load_adapter(request.name, Path(request.folder))
        else:
            done = self._loop.unload_adapter(request.name)
        try:
            await asyncio.wrap_future(done)
        except TextgenError as error:
            return pb.AdapterReply(adapters=self._info.adapters, error_type=error.error_type, message=str(error))
        del self._info.adapters[:]
        self._info.adapters.extend(self._loop.adapters)
        return pb.AdapterReply(adapters=self._info.adapters)

    async def GetStatus(self, request: pb.StatusRequest, context: Any) -> pb.EngineStatus:
        scheduler, counters, statistics = self._loop.scheduler, self._loop.scheduler.counters, self._loop.statistics
        return pb.EngineStatus(
            steps=self._loop.steps,
            seconds_in_step=self._loop.seconds_in_step,
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            blocks_used=scheduler.blocks.num_held,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            generated_tokens=counters.generated_tokens,
            preemptions=counters.preemptions,
            tokens_claimed=scheduler.tokens_claimed,
            statistics=[_statistics(method, steps) for method, steps in statistics.methods.items()],
            joined=_histogram(statistics.joined),
            join_seconds=_histogram(statistics.join_seconds),
            skipped_tokens=_histogram(counters.skipped_tokens),
            guessed_tokens=counters.guessed_tokens,
        )

    def connect(self) -> Frames:
        """The engine's end of an API process's stream."""
        number = next(self._numbers)
        stream = _Stream()
        stream.frames = Frames(
            pb.ClientMessage, partial(self._take_in, number, stream.open_requests), partial(self._disconnected, number)
        )
        self._streams[number] = stream
        return stream.frames

    def disconnect(self) -> None:
        """End all streams."""
        for stream in self._streams.values():
            stream.frames.close()

    def _disconnected(self, number: int) -> None:
        open_requests = self._streams.pop(number).open_requests
        for key in open_requests:
            self._loop.abort(key)
        open_requests.clear()

    def _take_in(self, number: int, open_requests: set[Key], message: pb.ClientMessage) -> None:
        if message.HasField("submit"):
            key = (number, message.submit.request)
            open_requests.add(key)
            self._submit(self._request(key, message.submit), grammar_from_wire(message.submit), open_requests)
        else:
            key = (number, message.abort.request)
            open_requests.discard(key)
            self._loop.abort(key)

    def _submit(self, request: Request, grammar: Grammar | None, open_requests: set[Key]) -> None:
        if grammar is None:
            self._loop.submit(request)
            return
        # The loop does not wait for grammars to be compiled, and others overtake this request meanwhile.
        task = self._asyncio.create_task(self._submit_constrained(request, grammar, open_requests))
        self._constraining.add(task)
        task.add_done_callback(self._constraining.discard)

    async def _submit_constrained(self, request: Request, grammar: Grammar, open_requests: set[Key]) -> None:
        try:
            request.constraint = await self._asyncio.run_in_executor(self._threads, self._constraint, request, grammar)
        except TextgenError as error:
            self._dispatch(Events(failures=[Failure(request.key, error)]))
        except Exception as error:
            _log.exception("a grammar could not be compiled")
            self._dispatch(Events(failures=[Failure(request.key, GenerationError(f"its grammar failed: {error}"))]))
        else:
            if request.key in open_requests:
                self._loop.submit(request)

    def _constraint(self, request: Request, grammar: Grammar) -> Constraint:
        if self._grammars is None:
            raise InvalidRequest("grammar is not supported: this model's tokenizer cannot be held to one")
        return self._grammars.constraint(grammar, goes_on=not request.stop_tokens)

    def _request(self, key: Key, submit: pb.Submit) -> Request:
        tokens, encoder_length = list(submit.prompt), 0
        if self._info.HasField("decoder_start_token"):
            encoder_length = len(tokens)
            tokens.append(self._info.decoder_start_token)
        return Request(
            key=key,
            tokens=tokens,
            max_new_tokens=submit.max_new_tokens,
            sampling=sampling_from_wire(submit.sampling),
            stop_tokens=frozenset(submit.stop_tokens),
            adapter=submit.adapter,
            cache_salt=submit.cache_salt,
            wants_prompt_logprobs=submit.prompt_logprobs,
            encoder_length=encoder_length,
            queue_timeout=submit.queue_timeout if submit.HasField("queue_timeout") else None,
            tenant=submit.tenant,
            priority=Priority(submit.priority),
        )


def _statistics(method: str, steps: StepStatistics) -> pb.StepStatistics:
    return pb.StepStatistics(
        method=method,
        failures=steps.failures,
        inference=_histogram(steps.inference),
        forward=_histogram(steps.forward),
        decode=_histogram(steps.decode),
        filter=_histogram(steps.filter),
    )


def _histogram(histogram: Histogram) -> pb.Histogram:
    return pb.Histogram(counts=histogram.counts, sum=histogram.sum)


def step_messages(events: Events) -> dict[int, pb.StepMessage]:
    """One message per client stream."""
    outputs: dict[int, list[Output]] = defaultdict(list)
    for output in events.outputs:
        outputs[cast(Key, output.request.key)[0]].append(output)
    any_tops = any(output.top for output in events.outputs)
    messages = {stream: _step_message(of_stream, any_tops) for stream, of_stream in outputs.items()}
    for failure in events.failures:
        stream, number = cast(Key, failure.key)
        message = messages.setdefault(stream, pb.StepMessage())
        message.failures.add(request=number, error_type=failure.error.error_type, message=str(failure.error))
    return messages


def _step_message(outputs: list[Output], tops: bool) -> pb.StepMessage:
    # Whole lists, and the numbers of enumerations: protobuf's cost is per call.
    numbers = [cast(Key, output.request.key)[1] for output in outputs]
    return pb.StepMessage(
        requests=numbers,
        tokens=[output.token for output in outputs],
        logprobs=[output.logprob for output in outputs],
        finish=cast(list[pb.FinishReason], [int(output.finish) for output in outputs]),
        starts=[_start(number, o.request) for number, o in zip(numbers, outputs, strict=True) if o.index == 0],
        tops=[alternatives_to_wire(output.top) for output in outputs] if tops else [],
    )


def _start(number: int, request: Request) -> pb.Start:
    scores = request.prompt_scores
    return pb.Start(
        request=number,
        queue_seconds=request.queue_seconds or 0.0,
        cached_tokens=request.cached_tokens,
        prompt_logprobs=scores.logprobs,
        prompt_tops=[alternatives_to_wire(top) for top in scores.tops],
    )


def _ended(message: pb.StepMessage) -> list[int]:
    finished = [number for number, finish in zip(message.requests, message.finish, strict=True) if finish]
    return finished + [failure.request for failure in message.failures]


class EngineServer:
    """A service that listens at `address` ("unix:/path") from `start` to `stop`."""

    def __init__(self, service: EngineService, address: str) -> None:
        self._service = service
        self._address = address
        self._grpc = grpc.aio.server(options=CHANNEL_OPTIONS)
        self._streams: asyncio.Server

    async def start(self) -> None:
        # First the streams: who gets an answer by gRPC will connect there.
        loop = asyncio.get_running_loop()
        self._streams = await loop.create_unix_server(self._service.connect, stream_path(self._address))
        engine_pb2_grpc.add_EngineServicer_to_server(self._service, self._grpc)
        self._grpc.add_insecure_port(self._address)
        await self._grpc.start()

    async def stop(self) -> None:
        self._streams.close()
        self._service.disconnect()
        await self._grpc.stop(grace=None)


async def serve(service: EngineService, address: str) -> EngineServer:
    """Start listening. The caller stops the server."""
    server = EngineServer(service, address)
    await server.start()
    return server
