"""The engine in another process, as the API process sees it: `Engine` over gRPC, requests and tokens in frames.

The object outlives the process behind it: the launcher connects it to one engine after another, and what it held when
one went away ends with EngineUnavailable.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic

import grpc

from textgen_server.errors import (
    EngineUnavailable,
    IncompleteGeneration,
    StartupError,
    TextgenError,
    from_error_type,
)
from textgen_server.rpc import engine_pb2 as pb
from textgen_server.rpc import engine_pb2_grpc
from textgen_server.rpc.client import Alternatives, EngineRequest, Receiver, Start, Token
from textgen_server.rpc.frames import Frames, stream_path
from textgen_server.rpc.wire import (
    CHANNEL_OPTIONS,
    FINISH_NAMES,
    alternatives_from_wire,
    grammar_to_wire,
    sampling_to_wire,
)

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0

# A model may load for minutes, and gRPC of itself looks for its engine ever more rarely, up to once in two minutes.
_RETRY_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]

STEP_TOLERANCE = 3.0
"""A step may take this many times what the largest one took at start, for busy cores, before it counts as stuck."""


class RemoteEngine:
    """See rpc.client.Engine.

    Args:
        stuck_after: seconds.
        adapters: kept to what is loaded, so that the next engine process can be given the same.
    """

    def __init__(self, stuck_after: float, adapters: dict[str, Path] | None = None) -> None:
        self._stuck_after = stuck_after
        self._adapters = {} if adapters is None else adapters
        self._info: pb.EngineInfo | None = None
        self._connection: _Connection | None = None

    @property
    def info(self) -> pb.EngineInfo:
        if self._info is None:
            raise EngineUnavailable("the engine has not started yet")
        return self._info

    @property
    def healthy(self) -> bool:
        return self._connection is not None and self._connection.lost is None

    async def connect(self, address: str) -> None:
        """Wait until the engine at `address` ("unix:/path") answers, then use it."""
        connection = _Connection(address, self._stuck_after)
        try:
            self._info = await connection.open()
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    async def wait_until_lost(self) -> TextgenError:
        """Return why the present engine is no longer usable, once it is not."""
        if self._connection is None:
            return EngineUnavailable("the engine is not connected")
        return await self._connection.wait_until_lost()

    async def disconnect(self, reason: TextgenError) -> None:
        """Forget the present engine; what it was working on ends with `reason`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.lose(reason)
            await connection.close()

    async def status(self) -> pb.EngineStatus:
        return await self._alive().status()

    async def load_adapter(self, name: str, folder: Path) -> None:
        await self._change_adapter(pb.AdapterChange(name=name, folder=str(folder)))
        self._adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        await self._change_adapter(pb.AdapterChange(name=name))
        self._adapters.pop(name, None)

    async def _change_adapter(self, change: pb.AdapterChange) -> None:
        adapters = await self._alive().change_adapter(change)
        del self.info.adapters[:]
        self.info.adapters.extend(adapters)

    def submit(self, request: EngineRequest, receiver: Receiver) -> Callable[[], None]:
        connection = self._alive()
        return partial(connection.release, connection.submit(request, receiver))

    def _alive(self) -> "_Connection":
        if self._connection is None or self._connection.lost is not None:
            raise EngineUnavailable("the engine is not available at the moment")
        return self._connection


class _Connection:
    """One engine process: its stream, the requests on it, and the watch over both."""

    def __init__(self, address: str, stuck_after: float) -> None:
        self.lost: TextgenError | None = None
        self._stuck_after = stuck_after
        self._longest_step = stuck_after
        self._heard = 0.0  # when the last step was told of
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS + _RETRY_OPTIONS)
        self._stub = engine_pb2_grpc.EngineStub(self._channel)
        self._numbers = itertools.count(1)
        self._receivers: dict[int, Receiver] = {}
        self._stream_path = stream_path(address)
        self._stream: Frames | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def open(self) -> pb.EngineInfo:
        info: pb.EngineInfo = await self._stub.Describe(pb.DescribeRequest(), wait_for_ready=True)
        self._longest_step = self._stuck_after + STEP_TOLERANCE * info.longest_step_seconds
        try:
            _, self._stream = await asyncio.get_running_loop().create_unix_connection(
                lambda: Frames(pb.StepMessage, self._deliver, self._stream_ended), self._stream_path
            )
        except OSError as error:
            raise StartupError(f"the engine ended while it started: {self._stream_path}: {error.strerror}") from None
        self._watching = asyncio.create_task(self._watch())
        return info

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._stream is not None:
            self._stream.close()
        await self._channel.close()

    def lose(self, reason: TextgenError) -> None:
        """Declare the engine gone; every request on it ends with `reason`."""
        if self.lost is None:
            self.lost = reason
            receivers, self._receivers = self._receivers, {}
            for receiver in receivers.values():
                receiver.fail(reason)
            self._ended.set()

    async def wait_until_lost(self) -> TextgenError:
        await self._ended.wait()
        return self.lost or EngineUnavailable("the engine is gone")

    async def status(self) -> pb.EngineStatus:
        try:
            status: pb.EngineStatus = await self._stub.GetStatus(pb.StatusRequest(), timeout=self._stuck_after)
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"the engine does not answer: {error.code().name}") from None
        return status

    async def change_adapter(self, change: pb.AdapterChange) -> list[str]:
        """Returns the names of the adapters that there are now."""
        try:
            reply: pb.AdapterReply = await self._stub.ChangeAdapter(change)
        except grpc.aio.AioRpcError as error:
            raise EngineUnavailable(f"the engine does not answer: {error.code().name}") from None
        if reply.error_type:
            raise from_error_type(reply.error_type, reply.message)
        return list(reply.adapters)

    def submit(self, request: EngineRequest, receiver: Receiver) -> int:
        number = next(self._numbers)
        self._receivers[number] = receiver
        self._send(pb.ClientMessage(submit=_submit(number, request)))
        return number

    def release(self, number: int) -> None:
        """The caller wants no more of this request; if it has not ended, the engine is told."""
        if self._receivers.pop(number, None) is not None and self.lost is None:
            self._send(pb.ClientMessage(abort=pb.Abort(request=number)))

    def _send(self, message: pb.ClientMessage) -> None:
        if self._stream is not None:
            self._stream.send(message)

    def _stream_ended(self) -> None:
        self.lose(EngineUnavailable("the engine stopped while it worked on this request"))

    def _deliver(self, message: pb.StepMessage) -> None:
        """Tell the receivers of a step, without a detour over tasks or queues: this is done for every token."""
        self._heard = monotonic()
        starts = {start.request: _start(start) for start in message.starts}
        none: Alternatives = ()
        tops = map(alternatives_from_wire, message.tops) if message.tops else itertools.repeat(none)
        columns = zip(message.requests, message.tokens, message.logprobs, message.finish, strict=True)
        receivers = self._receivers
        for (number, token, logprob, finish), top in zip(columns, tops, strict=False):
            receiver = receivers.get(number)
            if receiver is None:
                continue
            if finish:
                del receivers[number]
            if finish == pb.ABORTED:
                receiver.fail(IncompleteGeneration("the engine ended the request without a last token"))
            else:
                receiver.take(Token(token, logprob, FINISH_NAMES[finish], top, starts.get(number) if starts else None))
        for failure in message.failures:
            receiver = receivers.pop(failure.request, None)
            if receiver is not None:
                receiver.fail(from_error_type(failure.error_type, failure.message))

    async def _watch(self) -> None:
        """Ask for the status whenever no step has been heard of for a while. An engine that does not answer is stuck,
        although a long step keeps it from nothing; so is one whose step goes on far beyond what its longest took at
        start."""
        while self.lost is None:
            await asyncio.sleep(POLL_SECONDS)
            if monotonic() - self._heard < POLL_SECONDS:
                continue
            try:
                status = await self.status()
            except EngineUnavailable as error:
                self.lose(error)
                return
            if status.seconds_in_step > self._longest_step:
                self.lose(EngineUnavailable(f"the engine is stuck in a step for {status.seconds_in_step:.0f} s"))


def _submit(number: int, request: EngineRequest) -> pb.Submit:
    return pb.Submit(
        request=number,
        prompt=request.prompt,
        sampling=sampling_to_wire(request.sampling),
        max_new_tokens=request.max_new_tokens,
        stop_tokens=request.stop_tokens,
        cache_salt=request.cache_salt,
        prompt_logprobs=request.prompt_logprobs,
        grammar=grammar_to_wire(request.grammar),
        adapter=request.adapter,
        queue_timeout=request.queue_timeout,
        tenant=request.tenant,
        priority=request.priority,
    )


def _start(message: pb.Start) -> Start:
    tops = [alternatives_from_wire(top) for top in message.prompt_tops]
    return Start(message.queue_seconds, message.cached_tokens, list(message.prompt_logprobs), tops)
