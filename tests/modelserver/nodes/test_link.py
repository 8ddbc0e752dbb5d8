"""The connection between nodes: only for those who know the secret, and of one mind."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from textgen_server.nodes import link as links
from textgen_server.nodes.identity import disagreement, identity
from textgen_server.nodes.leader import Followers
from textgen_server.nodes.link import Link, LinkLost, WrongSecret, key_of, secret_of
from textgen_server.ranks import Meeting
from textgen_server.settings import ServerOptions

SECRET = b"known to both sides"
TWO = {"nnodes": 2, "master_port": 29500}


@contextlib.asynccontextmanager
async def listening(accepted: asyncio.Queue) -> AsyncIterator[int]:
    """A leader's end on loopback: each connection's Link, or why there is none, comes into the queue."""

    ends: list[asyncio.StreamWriter] = []

    async def take_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        try:
            await accepted.put(await Link.accept(reader, writer, SECRET))
        except LinkLost as error:
            await accepted.put(error)
            writer.close()

    server = await asyncio.start_server(take_in, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for end in ends:
            end.close()
        for _ in range(5):  # the loop lets go of what was closed
            await asyncio.sleep(0)


async def test_messages_travel_between_two_who_know_the_secret() -> None:
    accepted: asyncio.Queue = asyncio.Queue()
    async with listening(accepted) as port:
        follower = await Link.open("127.0.0.1", port, SECRET)
        leader = await accepted.get()
        await leader.send({"start": 1})
        await follower.send({"ended": -9})
        assert (await follower.receive(), await leader.receive()) == ({"start": 1}, {"ended": -9})
        follower.close()
        with pytest.raises(LinkLost, match="closed"):
            await leader.receive()
        leader.close()


async def test_both_sides_notice_another_secret() -> None:
    accepted: asyncio.Queue = asyncio.Queue()
    async with listening(accepted) as port:
        with pytest.raises(WrongSecret):
            await Link.open("127.0.0.1", port, b"something else entirely")
        assert isinstance(await accepted.get(), WrongSecret)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b"[1]\n", b"x" * 100_000, b""])
async def test_who_speaks_something_else_is_turned_away(said: bytes) -> None:
    accepted: asyncio.Queue = asyncio.Queue()
    async with listening(accepted) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        writer.write_eof()
        assert isinstance(await accepted.get(), LinkLost)
        await reader.read()
        writer.close()


async def test_who_says_nothing_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PROOF_SECONDS", 0.01)
    accepted: asyncio.Queue = asyncio.Queue()
    async with listening(accepted) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert isinstance(await accepted.get(), LinkLost)
        writer.close()


async def test_what_was_overheard_opens_no_second_connection() -> None:
    """The proof is of both sides' nonces: said again, it is of no use."""
    accepted: asyncio.Queue = asyncio.Queue()
    heard: list[bytes] = []

    async with listening(accepted) as port:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            theirs, to_leader = await asyncio.open_connection("127.0.0.1", port)
            for source, sink in ((theirs, writer), (reader, to_leader), (theirs, writer)):
                line = await source.readline()
                heard.append(line)
                sink.write(line)
            await reader.read()
            writer.close()
            to_leader.close()

        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        follower = await Link.open("127.0.0.1", between.sockets[0].getsockname()[1], SECRET)
        leader = await accepted.get()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert json.loads(await reader.readline())["nonce"] != json.loads(heard[0])["nonce"]
        writer.write(heard[1])
        assert isinstance(await accepted.get(), WrongSecret)
        for end in (follower, leader, writer, between):
            end.close()


def test_the_pipes_key_is_of_the_secret_and_of_this_start_and_is_not_sent() -> None:
    assert key_of(SECRET, "a") == key_of(SECRET, "a")
    assert len({key_of(SECRET, "a"), key_of(SECRET, "b"), key_of(b"something else", "a")}) == 3
    assert set(Meeting.model_fields) == {"number", "rendezvous", "plans", "nonce"}
    assert secret_of(ServerOptions()) != secret_of(ServerOptions())  # one node makes up its own


# --- of one mind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("follower", "word"),
    [
        ({}, None),
        ({"port": 8080, "log_level": "debug", "huggingface_hub_cache": "/elsewhere"}, None),
        ({"dtype": "float16"}, "--dtype float16, not None"),
        ({"nnodes": 3}, "--nnodes 3, not 2"),
        ({"max_batch_size": 8, "quantize": "fp8"}, "--quantize fp8, not None; --max-batch-size 8, not 256"),
    ],
    ids=str,
)
def test_followers_must_have_the_leaders_options(follower: dict, word: str | None) -> None:
    leader = identity(ServerOptions(**TWO), 4, "abc")
    found = disagreement(leader, identity(ServerOptions(**TWO | {"node_rank": 1} | follower), 4, "abc"))
    assert (found is None) if word is None else (word in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.1"}, "version 0.1"),
        ({"node": 0}, "--node-rank 0"),
        ({"node": "1"}, "--node-rank 1"),
        ({"node": 2}, "followers, 1 to 1"),
        ({"ranks": 8}, "8 ranks, the leader 4"),
        ({"sha": "def"}, "commit 'def'"),
    ],
    ids=str,
)
def test_followers_must_have_the_leaders_version_model_and_ranks(change: dict, words: str) -> None:
    leader = identity(ServerOptions(**TWO), 4, "abc")
    follower = identity(ServerOptions(**TWO, node_rank=1), 4, "abc")
    assert words in disagreement(leader, follower | change)


async def test_a_start_without_a_follower_is_lost_at_once() -> None:
    followers = Followers(identity(ServerOptions(**TWO), 1, ""), SECRET)
    await followers.start(Meeting(number=1, rendezvous="tcp://127.0.0.1:1", plans=("127.0.0.1", 2), nonce="x"), {}, {})
    loss = await followers.first_loss()
    assert loss.of_node
    assert "node 1 is gone" in loss.reason
