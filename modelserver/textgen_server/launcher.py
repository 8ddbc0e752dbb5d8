"""`textgen-server`: has the ranks started, waits until they are ready, serves HTTP, drains, ends.

This process is the front: it runs the API itself and never imports torch. The model lives in the ranks' processes
(engine_process.py), which ranks.py owns. When one of those dies or is stuck, the requests it held fail, /health turns
to 503, and all ranks are started anew, a bounded number of times.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import uvicorn
import uvloop

from textgen_server.api.app import create_app
from textgen_server.api.http import BACKLOG, uvicorn_config
from textgen_server.api.keys import ApiKeys
from textgen_server.api.predictor import server as predictor
from textgen_server.api.state import ServerContext
from textgen_server.errors import ShuttingDown, StartupError
from textgen_server.ranks import Ranks, Supervisor
from textgen_server.rotation import Rotated, keep_fresh
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.settings import ServerOptions, ServerSettings, parse
from textgen_server.telemetry import VERSION, configure_logging
from textgen_server.text.prompt import PromptEncoder
from textgen_server.tls import Certificate
from textgen_server.weights.inspection import inspect
from textgen_server.weights.progress import log_progress
from textgen_server.weights.source import ModelFolder, locate_all

if TYPE_CHECKING:
    from textgen_server.api.tracing import Tracing

_log = logging.getLogger(__name__)

COMMANDS = {
    "detect-watermark": "textgen_server.detect_watermark",
    "download-weights": "textgen_server.download_weights",
}
"""What `textgen-server` does besides serving: the first argument, and the module whose `main` gets the others."""

DRAIN_POLL_SECONDS = 0.05


def main() -> int:
    """Run a command, or the server where none is named. Returns the exit code: of the server 0 after a clean end, 1
    when it cannot start or its engine is lost."""
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is not None:
        run: Callable[[Sequence[str]], int] = importlib.import_module(command).main
        return run(sys.argv[2:])
    return _run_server()


def _run_server() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until there is something to drain
    try:
        settings = parse()
        configure_logging(settings.log_level, settings.json_output)
        edge = Edge.load(settings)
        with _listen(settings.hostname, settings.port, "--port") as listener, _reserved(settings):
            _log.info("model %s", settings.model_id)
            model, adapters = locate_all(settings, log_progress(_log))
            if not settings.mock_engine:
                inspect(model.path)
            return uvloop.run(_run(settings, edge, model, adapters, listener))
    except StartupError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


@dataclass(frozen=True)
class Edge:
    """What stands between the API and the world. Loaded before the model, so that a mistake is known at once.

    Attributes:
        certificate: None serves plain HTTP.
        tracing: None sends no traces.
    """

    keys: ApiKeys
    certificate: Certificate | None
    tracing: "Tracing | None"

    @classmethod
    def load(cls, settings: ServerSettings) -> Self:
        """Raises StartupError when a file cannot be used, or a library is missing."""
        return cls(ApiKeys.load(settings), Certificate.load(settings), _start_tracing(settings))

    @property
    def files(self) -> list[Rotated[Any]]:
        """What may be replaced while the server runs."""
        certificate = self.certificate.files if self.certificate else None
        return [files for files in (self.keys.file, certificate) if files]


def _start_tracing(settings: ServerSettings) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    try:
        from textgen_server.api.tracing import Tracing
    except ImportError as error:
        what = f"--otlp-endpoint needs OpenTelemetry's libraries ({error})"
        raise StartupError(f"{what}: pip install 'textgen[tracing]', or leave the flag out") from None
    return Tracing(settings.otlp_endpoint, settings.otlp_service_name, VERSION)


async def _run(
    settings: ServerSettings, edge: Edge, model: ModelFolder, adapters: dict[str, Path], listener: socket.socket
) -> int:
    stop = _stop_on_signals()
    engine = RemoteEngine(settings.stuck_engine_timeout, adapters)
    with tempfile.TemporaryDirectory(prefix="textgen-") as temp:
        supervisor = Supervisor(settings, Ranks(settings, model, adapters, Path(temp)), engine)
        async with _supervised(supervisor, stop) as watching:
            if watching is None:
                return 0
            return await _serve(settings, edge, model, engine, listener, watching, stop)


def _listen(hostname: str, port: int, flag: str) -> socket.socket:
    """Bind now, so that a busy port is known before the model is loaded; the API listens on it later."""
    family = socket.AF_INET6 if ":" in hostname else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((hostname, port))
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {hostname}:{port}: {error.strerror}; choose another {flag}") from None
    return listener


def _reserved(settings: ServerSettings) -> contextlib.AbstractContextManager[Any]:
    """Holds the port for gRPC, which cannot be given a socket. A socket that does not listen is in nobody's way."""
    if settings.grpc_port is None:
        return contextlib.nullcontext()
    return _listen(settings.hostname, settings.grpc_port, "--grpc-port")


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextlib.asynccontextmanager
async def _supervised(supervisor: Supervisor, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[None] | None]:
    """A started engine and the task that keeps it alive; None when `stop` came before it was ready."""
    starting = asyncio.create_task(supervisor.start())
    stopping = asyncio.create_task(stop.wait())
    watching = None
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            watching = asyncio.create_task(supervisor.keep_alive())
        yield watching
    finally:
        for task in (starting, stopping, watching):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(t for t in (starting, stopping, watching) if t), return_exceptions=True)
        await supervisor.stop()


async def _serve(
    settings: ServerSettings,
    edge: Edge,
    model: ModelFolder,
    engine: RemoteEngine,
    listener: socket.socket,
    watching: asyncio.Task[None],
    stop: asyncio.Event,
) -> int:
    """Answer until a signal comes (0) or the engine is lost for good (raises StartupError)."""
    encoder = PromptEncoder.load(model.path, settings)
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
    server = _Server(uvicorn_config(create_app(context), settings, edge.certificate))
    refreshing = asyncio.create_task(keep_fresh(edge.files))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    gc.collect()
    gc.freeze()  # or the collector walks over all that has been imported, a tenth of a second in which no token moves
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


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the launcher drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
