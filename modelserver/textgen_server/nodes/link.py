"""The connection between the leader and a follower: JSON lines over TCP, after both have shown that they know the
secret. Neither the secret nor anything that depends on it alone is sent; what is sent is not encrypted."""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import socket
from typing import Any, Self

import orjson

from textgen_server.errors import StartupError
from textgen_server.network import keep_alive
from textgen_server.settings import ServerOptions

PROOF_SECONDS = 10.0
LINE_LIMIT = 2**20
"""Bytes of the longest message."""

Message = dict[str, Any]


class LinkLost(Exception):
    """The other side is gone, or is not of ours."""


class WrongSecret(LinkLost):
    """The other side has another secret."""


class Link:
    """One connection whose other side has proven itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        end = writer.get_extra_info("socket")
        keep_alive(end)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def peer(self) -> str:
        """The other side's address."""
        return str((self._writer.get_extra_info("peername") or ["?"])[0])

    @classmethod
    async def accept(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes) -> Self:
        """The leader's side. Raises LinkLost."""
        link = cls(reader, writer)
        async with _soon():
            ours = secrets.token_hex(16)
            await link.send({"nonce": ours})
            answer = await link.receive()
            theirs = str(answer.get("nonce", ""))
            if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, "follower", ours, theirs)):
                await link.send({"refused": "secret"})
                raise WrongSecret("it has another --node-secret")
            await link.send({"proof": _proof(secret, "leader", ours, theirs)})
        return link

    @classmethod
    async def open(cls, host: str, port: int, secret: bytes) -> Self:
        """A follower's side. Raises OSError while nobody listens, LinkLost."""
        reader, writer = await asyncio.open_connection(host, port, limit=LINE_LIMIT)
        link = cls(reader, writer)
        try:
            async with _soon():
                theirs = str((await link.receive()).get("nonce", ""))
                ours = secrets.token_hex(16)
                await link.send({"nonce": ours, "proof": _proof(secret, "follower", theirs, ours)})
                answer = await link.receive()
            if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, "leader", theirs, ours)):
                raise WrongSecret("the leader has another --node-secret")
        except BaseException:
            link.close()
            raise
        return link

    async def send(self, message: Message) -> None:
        """Raises LinkLost."""
        try:
            self._writer.write(orjson.dumps(message) + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise LinkLost(str(error)) from None

    async def receive(self) -> Message:
        """The next message. Raises LinkLost when there will be none."""
        try:
            line = await self._reader.readline()
            message = orjson.loads(line) if line else None
        except (OSError, ValueError) as error:  # a line that is too long, or no JSON
            raise LinkLost(str(error)) from None
        if not isinstance(message, dict):
            raise LinkLost("the connection was closed" if message is None else "it sent what is no message")
        return message

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


@contextlib.asynccontextmanager
async def _soon() -> Any:
    try:
        async with asyncio.timeout(PROOF_SECONDS):
            yield
    except TimeoutError:
        raise LinkLost("it did not say who it is") from None


def _proof(secret: bytes, side: str, leaders_nonce: str, followers_nonce: str) -> str:
    """That `side` knows the secret: of no use to the other side, nor another time."""
    return hmac.new(secret, f"{side} {leaders_nonce} {followers_nonce}".encode(), hashlib.sha256).hexdigest()


def secret_of(options: ServerOptions) -> bytes:
    """What the nodes know each other by; one node alone makes it up. Raises StartupError where several have none."""
    if options.node_secret is not None:
        return options.node_secret.encode()
    if options.nnodes > 1:
        raise StartupError("--nnodes more than 1 needs --node-secret or NODE_SECRET, the same on every node")
    return secrets.token_bytes(16)


def key_of(secret: bytes, nonce: str) -> bytes:
    """The key of the pipes of one start, which is not sent."""
    return hmac.new(secret, f"ranks {nonce}".encode(), hashlib.sha256).digest()
