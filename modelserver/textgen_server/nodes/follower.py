"""A follower: runs its ranks as the leader says, and answers /health, with 200 while the whole group serves."""

import asyncio
import logging
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from textgen_server.api.http import Server, uvicorn_config
from textgen_server.errors import EngineUnavailable, StartupError
from textgen_server.nodes.identity import identity
from textgen_server.nodes.link import PROOF_SECONDS, Link, LinkLost, Message, WrongSecret, key_of
from textgen_server.ranks import Meeting, Ranks
from textgen_server.settings import ServerSettings
from textgen_server.tls import Certificate
from textgen_server.weights.source import ModelFolder

_log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
SECONDS_BETWEEN_LINES = 30.0


async def follow(
    settings: ServerSettings,
    model: ModelFolder,
    adapters: Mapping[str, Path],
    secret: bytes,
    certificate: Certificate | None,
    listener: socket.socket,
    stop: asyncio.Event,
) -> int:
    """Follow until a signal comes; returns 0. Then the leader may still finish what it has, for
    --graceful-termination-timeout or until a second signal. Raises StartupError when the leader refuses this node."""
    with tempfile.TemporaryDirectory(prefix="textgen-") as temp:
        follower = Follower(settings, model, adapters, secret, Path(temp))
        server = Server(uvicorn_config(follower.app(), settings, certificate))
        tasks = [
            following := asyncio.create_task(follower.run()),
            stopping := asyncio.create_task(stop.wait()),
            serving := asyncio.create_task(server.serve(sockets=[listener])),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and follower.ready:
                _log.info("stopping when the leader has: within %d s", settings.graceful_termination_timeout)
                stop.clear()
                await _first(stop, follower.released, seconds=settings.graceful_termination_timeout)
            for ended in (following, serving):
                if ended.done():
                    await ended
        finally:
            following.cancel()
            stopping.cancel()
            server.should_exit = True
            await asyncio.gather(following, stopping, serving, return_exceptions=True)
    return 0


async def _first(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of them is set, for at most `seconds`."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


class Follower:
    """This node's ranks in the leader's hands.

    Attributes:
        ready: the whole group serves.
        released: set while the leader wants nothing of this node.
    """

    def __init__(
        self,
        settings: ServerSettings,
        model: ModelFolder,
        adapters: Mapping[str, Path],
        secret: bytes,
        temp: Path,
    ) -> None:
        self.ready = False
        self.released = asyncio.Event()
        self.released.set()
        self._settings = settings
        self._adapters = adapters
        self._temp = temp
        self._ranks = Ranks(settings, model)
        self._identity = identity(settings, self._ranks.count, model.sha)
        self._secret = secret

    def app(self) -> Starlette:
        """What answers probes."""

        async def health(request: Request) -> Response:
            if self.ready:
                return Response()
            error = EngineUnavailable("the model's nodes are not all ready")
            return JSONResponse({"error": error.message, "error_type": error.error_type}, error.http_status)

        async def live(request: Request) -> Response:
            return JSONResponse({"live": True})

        return Starlette(routes=[Route("/health", health), Route("/v2/health/live", live)])

    async def run(self) -> None:
        """Obey one leader after another. Raises StartupError when one of them refuses this node."""
        while True:
            link = await self._reach_leader()
            try:
                await self._obey(link)
            except LinkLost as error:
                if self.released.is_set():
                    _log.info("the leader has ended")
                else:
                    _log.error("the leader is gone (%s); ending the ranks", error)
            finally:
                self.ready = False
                link.close()
                await self._ranks.stop(seconds=0)
                self.released.set()

    async def _reach_leader(self) -> Link:
        host, port = self._settings.master_addr, self._settings.master_port or 0
        said = 0.0
        while True:
            try:
                async with asyncio.timeout(PROOF_SECONDS):
                    return await self._introduce(await Link.open(host, port, self._secret))
            except WrongSecret as error:
                raise StartupError(f"{error}: the node at {host}:{port} does not take this one") from None
            except (OSError, LinkLost) as error:
                if not said or time.monotonic() - said > SECONDS_BETWEEN_LINES:
                    _log.info("waiting for the leader at %s:%d (%s)", host, port, error or "no answer")
                    said = time.monotonic()
            await asyncio.sleep(RETRY_SECONDS)

    async def _introduce(self, link: Link) -> Link:
        try:
            await link.send(self._identity)
            answer = await link.receive()
        except BaseException:
            link.close()
            raise
        if "welcome" not in answer:
            link.close()
            raise StartupError(f"the leader refuses this node: {answer.get('refused')}")
        _log.info("node %d of %d: following %s", self._settings.node_rank, self._settings.nnodes, link.peer)
        return link

    async def _obey(self, link: Link) -> None:
        """Do what the leader says until it hangs up, which raises LinkLost."""
        orders = asyncio.create_task(link.receive())
        exits: asyncio.Task[int] | None = None
        number = 0
        try:
            while True:
                waits = [orders] if exits is None else [orders, exits]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if exits is not None and exits.done():
                    self.ready = False
                    await link.send({"ended": exits.result(), "number": number})
                    exits = None
                if orders.done():
                    message = orders.result()
                    orders = asyncio.create_task(link.receive())
                    if "ready" in message:
                        self.ready = exits is not None and message["ready"] == number
                        continue
                    if exits is not None:
                        exits.cancel()
                        exits = None
                    number = await self._begin(message)
                    exits = asyncio.create_task(self._ranks.first_exit()) if number else None
        finally:
            for task in (orders, exits):
                if task is not None:
                    task.cancel()

    async def _begin(self, message: Message) -> int:
        """End what runs, and start anew where the message says so; returns the number of the start, else 0."""
        self.ready = False
        await self._ranks.stop(seconds=0)
        if "start" not in message:
            self.released.set()
            return 0
        self.released.clear()
        meeting = Meeting.model_validate(message["start"])
        adapters = {name: Path(there) if there else self._adapters[name] for name, there in message["adapters"].items()}
        key = key_of(self._secret, meeting.nonce)
        await self._ranks.start(meeting, key, self._temp / "engine", adapters)
        return meeting.number
