"""Keeps one engine alive: its ranks here and on other nodes are started together, watched, and all started anew when
one is lost, a bounded number of times. Used by the launcher of the node that leads."""

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from textgen_server.errors import EngineUnavailable, StartupError
from textgen_server.network import free_ports
from textgen_server.nodes.leader import Followers, Loss
from textgen_server.nodes.link import key_of
from textgen_server.ranks import Meeting, Ranks
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.settings import ServerOptions, ServerSettings

_log = logging.getLogger(__name__)

RESTART_WINDOW_SECONDS = 600.0
RANK_EXIT_SECONDS = 5.0
NEWS_SECONDS = 1.0
"""When a rank here ends, what happened on another node may be the reason, and is heard of within this time."""


class AllRanks:
    """The ranks of one engine, on every node.

    Attributes:
        adapters: what a new engine loads before it is ready; by name.
    """

    def __init__(
        self,
        options: ServerOptions,
        here: Ranks,
        elsewhere: Followers,
        secret: bytes,
        adapters: dict[str, Path],
        temp: Path,
    ) -> None:
        self.adapters = adapters
        self._located = dict(adapters)
        self._options = options
        self._here = here
        self._elsewhere = elsewhere
        self._secret = secret
        self._temp = temp
        self._started = 0

    async def start(self) -> Path:
        """Wait for every node and start every rank; returns the path of the engine's socket, which appears when the
        engine is ready."""
        await self._elsewhere.gather()
        self._started += 1
        base = self._options.shard_uds_path or str(self._temp / f"engine{self._started}")
        engine_socket = Path(f"{base}-0")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(engine_socket)  # noqa: PTH108 - a moment's system call, not worth a thread
        meeting = self._meeting(engine_socket)
        await self._elsewhere.start(meeting, self.adapters, self._located)
        await self._here.start(meeting, key_of(self._secret, meeting.nonce), engine_socket, self.adapters)
        return engine_socket

    def _meeting(self, engine_socket: Path) -> Meeting:
        host, port = self._options.master_addr, self._options.master_port
        plans: Path | tuple[str, int] = engine_socket.with_name(engine_socket.name + "-plans")
        first, second = free_ports(host, 2)
        if self._options.nnodes == 1:
            port = port or first
        else:
            # Nodes meet at the port itself. New ones for each start: ranks of a killed leader may outlive it a bit.
            port, plans = first, (host, second)
        address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        return Meeting(number=self._started, rendezvous=address, plans=plans, nonce=secrets.token_hex(16))

    async def ready(self) -> None:
        """Tell the other nodes that the engine serves."""
        await self._elsewhere.ready()

    async def first_loss(self) -> Loss:
        """What ends the ranks' work together."""
        here = asyncio.create_task(self._here.first_exit())
        elsewhere = asyncio.create_task(self._elsewhere.first_loss())
        try:
            await asyncio.wait({here, elsewhere}, return_when=asyncio.FIRST_COMPLETED)
            if elsewhere.done():
                return elsewhere.result()
            reason = f"the engine ended with code {here.result()}"
            if self._options.nnodes > 1:
                await asyncio.wait({elsewhere}, timeout=NEWS_SECONDS)
            if elsewhere.done():
                found = elsewhere.result()
                return replace(found, reason=f"{reason}; {found.reason}")
            return Loss(reason)
        finally:
            here.cancel()
            elsewhere.cancel()

    async def stop(self, seconds: float) -> None:
        """End every rank, as Ranks.stop."""
        await self._here.stop(seconds)
        await self._elsewhere.stop()


class Supervisor:
    """Keeps one engine alive behind `engine`."""

    def __init__(self, settings: ServerSettings, ranks: AllRanks, engine: RemoteEngine) -> None:
        self._ranks = ranks
        self._engine = engine
        self._restarts_allowed = settings.engine_restarts
        self._restarts: deque[float] = deque()

    async def start(self) -> None:
        """Start the ranks and connect; again when a node goes away meanwhile. Raises StartupError when a rank ends
        first; it has said why."""
        while (loss := await self._start()) is not None:
            if not loss.of_node:
                why = f": {loss.reason}" if loss.elsewhere else "; its reason is in the lines above"
                raise StartupError(f"the engine could not start{why}")
            await self._end(loss.reason)

    async def _start(self) -> Loss | None:
        """One attempt. Returns what was lost before the engine was ready, if anything was."""
        engine_socket = await self._ranks.start()
        connecting = asyncio.create_task(self._engine.connect(f"unix:{engine_socket}"))
        losing = asyncio.create_task(self._ranks.first_loss())
        try:
            await asyncio.wait({connecting, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                return losing.result()
            await connecting
        finally:
            for task in (connecting, losing):
                task.cancel()
            await asyncio.gather(connecting, losing, return_exceptions=True)
        await self._ranks.ready()
        return None

    async def keep_alive(self) -> None:
        """Restart the engine whenever it is lost. Raises StartupError when that does not help."""
        while True:
            await self._end(await self._loss())
            await self.start()
            _log.info("the engine is back")

    async def _end(self, reason: str) -> None:
        """End all ranks, to be started anew. Raises StartupError when that has been done too often."""
        _log.error("%s; restarting the engine", reason)
        await self._engine.disconnect(EngineUnavailable(reason))
        await self._ranks.stop(seconds=0)
        self._count_restart()

    async def _loss(self) -> str:
        """Wait until a rank ends, a node goes away, or the engine does not answer; returns what happened."""
        silent = asyncio.create_task(self._engine.wait_until_lost())
        lost = asyncio.create_task(self._ranks.first_loss())
        try:
            await asyncio.wait({silent, lost}, return_when=asyncio.FIRST_COMPLETED)
            return str(silent.result()) if silent.done() else lost.result().reason
        finally:
            silent.cancel()
            lost.cancel()

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
