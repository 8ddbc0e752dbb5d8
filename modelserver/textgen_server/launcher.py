"""`textgen-server`: has the ranks started, waits until they are ready, serves HTTP, drains, ends.

This process is the front: it runs the API itself and never imports torch. The model lives in the ranks' processes
(engine_process.py), which ranks.py owns. When one of those dies or is stuck, the requests it held fail, /health turns
to 503, and all ranks are started anew (supervisor.py), a bounded number of times. Where the model is on several nodes,
this is the leader's part; the others only follow (nodes/).
"""

import asyncio
import contextlib
import importlib
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from textgen_server.edge import Edge
from textgen_server.errors import StartupError
from textgen_server.network import listening_host
from textgen_server.nodes.identity import identity
from textgen_server.nodes.leader import Followers
from textgen_server.nodes.link import secret_of
from textgen_server.ranks import Ranks
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.settings import ServerSettings, parse
from textgen_server.supervisor import AllRanks, Supervisor
from textgen_server.telemetry import configure_logging, report_failure
from textgen_server.text.prompt import PromptEncoder
from textgen_server.weights.inspection import inspect
from textgen_server.weights.progress import log_progress
from textgen_server.weights.source import ModelFolder, locate_all

_log = logging.getLogger(__name__)

COMMANDS = {
    "detect-watermark": "textgen_server.detect_watermark",
    "download-weights": "textgen_server.download_weights",
    "quantize": "textgen_server.quantize",
}
"""What `textgen-server` does besides serving: the first argument, and the module whose `main` gets the others."""


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
        secret = secret_of(settings)
        with _listen(settings.hostname, settings.port, "--port") as listener, _reserved(settings):
            _log.info("model %s", settings.model_id)
            model, adapters = locate_all(settings, log_progress(_log))
            if not settings.mock_engine:
                inspect(model.path)
            if settings.node_rank:
                return uvloop.run(_follow(settings, edge, model, adapters, secret, listener))
            encoder = PromptEncoder.load(model.path, settings)
            return uvloop.run(_lead(settings, edge, model, adapters, secret, encoder, listener))
    except StartupError as error:
        report_failure(error)
        return error.exit_code


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


async def _follow(
    settings: ServerSettings,
    edge: Edge,
    model: ModelFolder,
    adapters: dict[str, Path],
    secret: bytes,
    listener: socket.socket,
) -> int:
    stop = _stop_on_signals()
    from textgen_server.nodes.follower import follow  # brings the API's libraries

    return await follow(settings, model, adapters, secret, edge.certificate, listener, stop)


async def _lead(
    settings: ServerSettings,
    edge: Edge,
    model: ModelFolder,
    adapters: dict[str, Path],
    secret: bytes,
    encoder: PromptEncoder,
    listener: socket.socket,
) -> int:
    stop = _stop_on_signals()
    engine = RemoteEngine(settings.stuck_engine_timeout, adapters)
    ranks = Ranks(settings, model)
    followers = Followers(identity(settings, ranks.count, model.sha), secret)
    with tempfile.TemporaryDirectory(prefix="textgen-") as temp, _listen_for_nodes(settings) as nodes:
        all_ranks = AllRanks(settings, ranks, followers, secret, adapters, Path(temp))
        supervisor = Supervisor(settings, all_ranks, engine)
        importing = asyncio.create_task(asyncio.to_thread(importlib.import_module, "textgen_server.serving"))
        async with followers.listening(nodes), _supervised(supervisor, stop) as watching:
            if watching is None:
                return 0
            serve: Callable[..., Awaitable[int]] = (await importing).serve
            return await serve(settings, edge, encoder, engine, listener, watching, stop)


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


def _listen_for_nodes(settings: ServerSettings) -> contextlib.AbstractContextManager[socket.socket | None]:
    if settings.nnodes == 1 or settings.master_port is None:
        return contextlib.nullcontext()
    return _listen(listening_host(settings.master_addr)[1], settings.master_port, "--master-port")


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
