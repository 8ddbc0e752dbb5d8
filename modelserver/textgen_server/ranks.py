"""The ranks' processes: started, watched, restarted, ended. Used by the launcher; nothing else owns processes."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

import orjson

from textgen_server.errors import EngineUnavailable, StartupError
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.settings import ServerOptions, ServerSettings
from textgen_server.weights.source import ModelFolder

_log = logging.getLogger(__name__)

RESTART_WINDOW_SECONDS = 600.0
RANK_EXIT_SECONDS = 5.0

# What a rank's environment has unless the user's has it already. Threads of a parallel region that wait for the last
# one spin only briefly: where something else wants the core that the last one needs, long spinning made a step on two
# busy cores 4 to 15 times slower, and short spinning costs nothing measurable on quiet ones.
RANK_ENVIRONMENT = {"GOMP_SPINCOUNT": "2000"}


class Ranks:
    """The processes of one engine, one per shard.

    Attributes:
        adapters: what a new engine loads before it is ready; by name.
    """

    def __init__(self, options: ServerOptions, model: ModelFolder, adapters: dict[str, Path], temp: Path) -> None:
        self.adapters = adapters
        self._options = options
        self._model = model
        self._temp = temp
        self._size = shard_count(options)
        self._processes: list[asyncio.subprocess.Process] = []
        self._generation = 0

    async def start(self) -> Path:
        """Start every rank; returns the path of the engine's socket, which appears when the engine is ready."""
        self._generation += 1
        base = self._options.shard_uds_path or str(self._temp / f"engine{self._generation}")
        engine_socket = Path(f"{base}-0")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(engine_socket)  # noqa: PTH108 - a moment's system call, not worth a thread
        rendezvous = f"tcp://{self._options.master_addr}:{self._options.master_port or _free_port()}"
        secret = secrets.token_hex(16)
        for rank in range(self._size):
            orders: dict[str, object] = {
                "options": self._options.model_dump(exclude_unset=True),
                "folder": str(self._model.path),
                "sha": self._model.sha,
                "adapters": {name: str(folder) for name, folder in self.adapters.items()},
                "merge": str(self._model.merge) if self._model.merge else None,
                "rank": rank,
                "size": self._size,
                "rendezvous": rendezvous,
                "socket": str(engine_socket),
                "secret": secret,
            }
            self._processes.append(await _spawn(orders))
        return engine_socket

    async def first_exit(self) -> int:
        """The exit code of the first rank that ends."""
        waits = [asyncio.create_task(process.wait()) for process in self._processes]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return done.pop().result()

    async def stop(self, seconds: float) -> None:
        """End every rank: politely, and after `seconds` by force. Stuck ranks are not asked: give them 0."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM if seconds else signal.SIGKILL)
        waiting = asyncio.gather(*(process.wait() for process in self._processes))
        try:
            await asyncio.wait_for(asyncio.shield(waiting), seconds or None)
        except TimeoutError:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await waiting
        self._processes = []


async def _spawn(orders: dict[str, object]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "textgen_server.engine_process",
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # signals from the terminal are the launcher's alone
        env={**RANK_ENVIRONMENT, **os.environ},
    )
    if process.stdin is None:
        raise StartupError("the engine process has no standard input")
    process.stdin.write(orjson.dumps(orders) + b"\n")
    await process.stdin.drain()
    return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def shard_count(options: ServerOptions) -> int:
    """--num-shard, else as many as the variables that container runtimes set list, else 1 (TGI's rule)."""
    if options.mock_engine:
        return 1
    if options.num_shard is not None:
        return options.num_shard
    if options.sharded is False or options.device == "cpu":
        return 1
    listed = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("NVIDIA_VISIBLE_DEVICES") or ""
    count = len(list(Path("/dev").glob("nvidia[0-9]*"))) if listed in ("all", "void") else len(listed.split(","))
    if options.sharded and count < 2:
        raise StartupError("--sharded true needs more than one GPU; give --num-shard, or leave it out")
    return max(count, 1)


class Supervisor:
    """Keeps one engine alive behind `engine`."""

    def __init__(self, settings: ServerSettings, ranks: Ranks, engine: RemoteEngine) -> None:
        self._ranks = ranks
        self._engine = engine
        self._restarts_allowed = settings.engine_restarts
        self._restarts: deque[float] = deque()

    async def start(self) -> None:
        """Start the ranks and connect. Raises StartupError when one of them ends first; it has said why."""
        engine_socket = await self._ranks.start()
        connecting = asyncio.create_task(self._engine.connect(f"unix:{engine_socket}"))
        exiting = asyncio.create_task(self._ranks.first_exit())
        try:
            await asyncio.wait({connecting, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise StartupError("the engine could not start; its reason is in the lines above")
            await connecting
        finally:
            for task in (connecting, exiting):
                task.cancel()
            await asyncio.gather(connecting, exiting, return_exceptions=True)

    async def keep_alive(self) -> None:
        """Restart the engine whenever it is lost. Raises StartupError when that does not help."""
        while True:
            reason = await self._loss()
            _log.error("%s; restarting the engine", reason)
            await self._engine.disconnect(EngineUnavailable(str(reason)))
            await self._ranks.stop(seconds=0)
            self._count_restart()
            await self.start()
            _log.info("the engine is back")

    async def _loss(self) -> str:
        """Wait until a rank ends or the engine does not answer; returns what happened."""
        lost = asyncio.create_task(self._engine.wait_until_lost())
        exited = asyncio.create_task(self._ranks.first_exit())
        try:
            await asyncio.wait({lost, exited}, return_when=asyncio.FIRST_COMPLETED)
            return str(lost.result()) if lost.done() else f"the engine ended with code {exited.result()}"
        finally:
            lost.cancel()
            exited.cancel()

    def _count_restart(self) -> None:
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > RESTART_WINDOW_SECONDS:
            self._restarts.popleft()
        if len(self._restarts) >= self._restarts_allowed:
            raise StartupError(f"the engine was lost {len(self._restarts) + 1} times within ten minutes; giving up")
        self._restarts.append(now)

    async def stop(self) -> None:
        await self._engine.disconnect(EngineUnavailable("the server is shutting down"))
        await self._ranks.stop(RANK_EXIT_SECONDS)
