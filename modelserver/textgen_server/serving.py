"""Answering HTTP and gRPC with a started engine, until the server ends. Used by the launcher, which imports this while
the ranks start: the libraries of the API take half a second."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator

from textgen_server import garbage
from textgen_server.api.app import create_app
from textgen_server.api.http import BACKLOG, Server, uvicorn_config
from textgen_server.api.predictor import server as predictor
from textgen_server.api.state import ServerContext
from textgen_server.edge import Edge
from textgen_server.errors import ShuttingDown
from textgen_server.rotation import keep_fresh
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.settings import ServerOptions, ServerSettings
from textgen_server.text.prompt import PromptEncoder

_log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.05


async def serve(
    settings: ServerSettings,
    edge: Edge,
    encoder: PromptEncoder,
    engine: RemoteEngine,
    listener: socket.socket,
    watching: asyncio.Task[None],
    stop: asyncio.Event,
) -> int:
    """Answer until a signal comes (0) or the engine is lost for good (raises StartupError)."""
    context = ServerContext.create(settings, engine, encoder, edge.keys, edge.tracing)
    async with _serving_grpc(context, edge):
        return await _serve_http(context, edge, engine, listener, watching, stop)


@contextlib.asynccontextmanager
async def _serving_grpc(context: ServerContext, edge: Edge) -> AsyncIterator[None]:
    hostname, port = context.settings.hostname, context.settings.grpc_port
    if port is None:
        yield
        return
    async with predictor.serving(context, hostname, port, edge.certificate) as bound:
        _log.info("gRPC at %s:%d", hostname, bound)
        yield


async def _serve_http(
    context: ServerContext,
    edge: Edge,
    engine: RemoteEngine,
    listener: socket.socket,
    watching: asyncio.Task[None],
    stop: asyncio.Event,
) -> int:
    settings = context.settings
    server = Server(uvicorn_config(create_app(context), settings, edge.certificate))
    refreshing = asyncio.create_task(keep_fresh(edge.files))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    garbage.take_over()
    tidying = asyncio.create_task(garbage.keep_tidy(lambda: not context.in_flight))
    listener.listen(BACKLOG)  # uvicorn will; but the next line says that connections are taken
    _log_ready(settings, edge, engine, listener)
    await asyncio.wait({serving, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if stopping.done():
            await _drain(context, settings.graceful_termination_timeout, stop, watching)
        if watching.done():
            await watching
    finally:
        stopping.cancel()
        watching.cancel()
        # What is still in flight ends with an error in its own stream, before its connection is closed.
        await engine.disconnect(ShuttingDown("the server is shutting down"))
        server.should_exit = True
        await serving
        refreshing.cancel()
        tidying.cancel()
        context.encoder.close()
        if edge.tracing:
            await asyncio.to_thread(edge.tracing.close)
    return 0


def _log_ready(settings: ServerOptions, edge: Edge, engine: RemoteEngine, listener: socket.socket) -> None:
    info = engine.info
    host, port = listener.getsockname()[:2]
    _log.info(
        "%s on %s x%d: prompts up to %d tokens, %d with output, %d requests at once",
        settings.model_name, info.device, info.num_shard, info.max_input_tokens, info.max_total_tokens,
        settings.max_concurrent_requests,
    )  # fmt: skip
    _log.info("ready at %s://%s:%d", "https" if edge.certificate else "http", host, port)


async def _drain(context: ServerContext, seconds: float, stop: asyncio.Event, watching: asyncio.Task[None]) -> None:
    """Refuse new requests and let those in flight finish, for at most `seconds` or until a second signal."""
    context.lifecycle.draining = True
    stop.clear()
    _log.info("stopping: %d requests in flight, up to %.0f s to finish", context.in_flight, seconds)
    deadline = time.monotonic() + seconds

    def over() -> bool:
        return not context.in_flight or time.monotonic() > deadline or stop.is_set() or watching.done()

    while not over():  # noqa: ASYNC110 - two of the four are no events
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    if context.in_flight:
        _log.warning("ending with %d requests unfinished", context.in_flight)
