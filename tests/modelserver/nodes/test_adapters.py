"""Which adapters the ranks of other nodes start with."""

import asyncio
import socket
from pathlib import Path

import pytest

from textgen_server import ranks
from textgen_server.nodes.follower import Follower
from textgen_server.nodes.identity import identity
from textgen_server.nodes.leader import Followers
from textgen_server.ranks import Meeting
from textgen_server.settings import ServerOptions
from textgen_server.weights.source import ModelFolder

SECRET = b"known to both sides"


class Rank:
    """A process that does nothing until it is ended."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def send_signal(self, number: int) -> None:
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return -9


async def test_a_node_takes_its_own_copy_but_of_what_was_loaded_while_serving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: asyncio.Queue[dict] = asyncio.Queue()

    async def spawn(orders: dict) -> Rank:
        await started.put(orders)
        return Rank()

    monkeypatch.setattr(ranks, "_spawn", spawn)
    listener = socket.create_server(("127.0.0.1", 0))
    two = {"nnodes": 2, "master_port": listener.getsockname()[1], "device": "cpu"}
    leader = Followers(identity(ServerOptions(**two), 1, ""), SECRET)
    own = {"a": Path("/own/a"), "b": Path("/own/b")}
    follower = Follower(ServerOptions(**two, node_rank=1), ModelFolder(tmp_path, "m", ""), own, SECRET, tmp_path)
    async with leader.listening(listener):
        following = asyncio.create_task(follower.run())
        await leader.gather()
        located = {"a": Path("/leaders/a"), "b": Path("/leaders/b")}
        now = located | {"b": Path("/loaded/b"), "c": Path("/loaded/c")}
        await leader.start(Meeting(number=1, rendezvous="tcp://x:1", plans=("x", 2), nonce="n"), now, located)
        assert (await started.get())["adapters"] == {"a": "/own/a", "b": "/loaded/b", "c": "/loaded/c"}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
