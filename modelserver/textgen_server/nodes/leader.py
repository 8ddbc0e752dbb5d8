"""The leader's side: who follows, what they are told, and what becomes of them."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from textgen_server.nodes.identity import Identity, disagreement
from textgen_server.nodes.link import LINE_LIMIT, Link, LinkLost, Message
from textgen_server.ranks import Meeting

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """Why the ranks can no longer go on together.

    Attributes:
        reason: what happened.
        elsewhere: whether it happened on another node, whose log has more.
        of_node: whether a whole node is away, and may come back.
    """

    reason: str
    elsewhere: bool = False
    of_node: bool = False


class Followers:
    """The other nodes; none where the model is on one."""

    def __init__(self, own: Identity, secret: bytes) -> None:
        self._own = own
        self._secret = secret
        self._expected = range(1, own["options"]["nnodes"])
        self._links: dict[int, Link] = {}
        self._arrived = asyncio.Event()
        self._started = 0
        self._loss: asyncio.Future[Loss] = asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def listening(self, listener: socket.socket | None) -> AsyncIterator[None]:
        """Takes followers in at `listener`, which one node alone does not need."""
        if listener is None:
            yield
            return
        server = await asyncio.start_server(self._take_in, sock=listener, limit=LINE_LIMIT)
        try:
            yield
        finally:
            server.close()
            for link in self._links.values():
                link.close()

    async def gather(self) -> None:
        """Wait until every node is there."""
        while missing := [node for node in self._expected if node not in self._links]:
            _log.info("waiting for node %s of %d", ", ".join(map(str, missing)), len(self._expected) + 1)
            self._arrived.clear()
            await self._arrived.wait()

    async def start(self, meeting: Meeting, adapters: Mapping[str, Path], located: Mapping[str, Path]) -> None:
        """Have every node start its ranks, with `adapters`; of those that are as the leader `located` them when it
        started, each node takes what it located itself."""
        self._started = meeting.number
        self._loss = asyncio.get_running_loop().create_future()
        folders = {name: None if located.get(name) == path else str(path) for name, path in adapters.items()}
        await self._tell({"start": meeting.model_dump(mode="json"), "adapters": folders})

    async def ready(self) -> None:
        """Tell every node that the engine serves."""
        await self._tell({"ready": self._started})

    async def stop(self) -> None:
        """Have every node end its ranks."""
        await self._tell({"stop": self._started})

    async def first_loss(self) -> Loss:
        """What happens first to the ranks that were started last, or to their node."""
        return await asyncio.shield(self._loss)

    async def _tell(self, message: Message) -> None:
        for node in self._expected:
            link = self._links.get(node)
            try:
                if link is None:
                    raise LinkLost("it is not connected")
                await link.send(message)
            except LinkLost as error:
                self._lose(Loss(f"node {node} is gone: {error}", elsewhere=True, of_node=True))

    def _lose(self, loss: Loss) -> None:
        if not self._loss.done():
            self._loss.set_result(loss)

    async def _take_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            peer = (writer.get_extra_info("peername") or ["?"])[0]
            try:
                link = await Link.accept(reader, writer, self._secret)
                hello = await link.receive()
                reason = disagreement(self._own, hello)
                await link.send({"refused": reason} if reason else {"welcome": True})
            except LinkLost as error:
                _log.warning("turned away %s at --master-port: %s", peer, error)
                return
            if reason:
                _log.error("refused node %s (%s): %s", hello.get("node"), peer, reason)
                return
            await self._listen_to(hello["node"], link)

    async def _listen_to(self, node: int, link: Link) -> None:
        if (before := self._links.get(node)) is not None:
            before.close()
            self._lose(Loss(f"node {node} started anew", elsewhere=True, of_node=True))
        self._links[node] = link
        _log.info("node %d is here (%s)", node, link.peer)
        self._arrived.set()
        try:
            while True:
                message = await link.receive()
                if message.get("number") == self._started:
                    code = message.get("ended")
                    self._lose(Loss(f"a rank of node {node} ended with code {code}: see its log", elsewhere=True))
        except LinkLost as error:
            if self._links.get(node) is link:
                del self._links[node]
                self._lose(Loss(f"node {node} is gone: {error}", elsewhere=True, of_node=True))
