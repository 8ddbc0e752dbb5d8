"""Frames come out as they went in, wherever the network cuts them."""

import asyncio
from pathlib import Path

from front import until
from hypothesis import given
from hypothesis import strategies as st

from textgen_server.rpc.engine_pb2 import StepMessage
from textgen_server.rpc.frames import Frames, stream_path


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.data += data


@given(sizes=st.lists(st.integers(0, 500), max_size=6), cut=st.integers(1, 300))
def test_messages_arrive_whole_and_in_order(sizes: list[int], cut: int) -> None:
    messages = [StepMessage(requests=range(size), tokens=range(size)) for size in sizes]
    wire, arrived = Wire(), []
    sender = Frames(StepMessage, arrived.append, lambda: None)
    sender.connection_made(wire)
    for message in messages:
        sender.send(message)
    receiver = Frames(StepMessage, arrived.append, lambda: None)
    for start in range(0, len(wire.data), cut):
        receiver.data_received(wire.data[start : start + cut])
    assert arrived == messages


async def test_both_ends_hear_of_the_end(tmp_path: Path) -> None:
    path, ended = stream_path(f"unix:{tmp_path}/engine"), []
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Frames(StepMessage, print, lambda: ended.append("server")), path)
    _, client = await loop.create_unix_connection(
        lambda: Frames(StepMessage, print, lambda: ended.append("client")), path
    )
    client.send(StepMessage())
    client.close()
    await until(lambda: len(ended) == 2)
    client.send(StepMessage())  # goes nowhere, and harms nobody
    server.close()
    await server.wait_closed()
