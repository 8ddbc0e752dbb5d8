"""The stream of requests and tokens: messages of engine.proto on a Unix socket, each behind its length. Used by
remote.py and service.py.

All else on the engine's wire is gRPC. Its streams cost the receiver 0.3 ms more per message, for hops from thread to
thread, which with few requests was half of what the API process did (bench/RESULTS.md).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, Self, cast

LENGTH_BYTES = 4


def stream_path(address: str) -> str:
    """Where the stream of the engine at `address` ("unix:/path") is."""
    return address.removeprefix("unix:") + "-stream"


class Message(Protocol):
    """What this needs of protobuf's messages."""

    @classmethod
    def FromString(cls, data: bytes) -> Self: ...

    def SerializeToString(self) -> bytes: ...


class Frames(asyncio.Protocol):
    """One end of a connection.

    Args:
        kind: the class of the messages that arrive.
        on_message: is given each of them.
        on_end: called when the connection has ended, from either side.
    """

    def __init__(self, kind: type[Message], on_message: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        self._parse = kind.FromString
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._transport: asyncio.Transport

    def send(self, message: Message) -> None:
        """Never waits. Does nothing when the connection has ended."""
        data = message.SerializeToString()
        self._transport.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._received[:LENGTH_BYTES], "little")
            if len(self._received) < end:
                return
            message = self._parse(bytes(self._received[LENGTH_BYTES:end]))
            del self._received[:end]
            self._on_message(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._on_end()
