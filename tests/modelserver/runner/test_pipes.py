"""Pipes for plans: only for ranks that know the key, whoever else connects."""

import socket
import threading
from pathlib import Path

import pytest
from ports import free_port

from textgen_server.errors import StartupError
from textgen_server.runner import pipes

KEY = b"of this start"


@pytest.fixture(params=["unix", "tcp"])
def address(request, tmp_path: Path) -> pipes.Address:
    return tmp_path / "plans" if request.param == "unix" else ("127.0.0.1", free_port())


def test_ranks_get_what_rank_0_sends(address: pipes.Address) -> None:
    heard: list[bytes] = []

    def rank() -> None:
        with pipes.connect(address, KEY) as pipe:
            heard.append(pipe.recv_bytes())

    ranks = [threading.Thread(target=rank) for _ in range(2)]
    for each in ranks:
        each.start()
    for worker in pipes.accept_workers(address, KEY, 2):
        worker.send_bytes(b"a plan")
        worker.close()
    for each in ranks:
        each.join(60)
    assert heard == [b"a plan"] * 2


def test_strangers_are_turned_away_and_others_waited_for(address: pipes.Address) -> None:
    said: list[str] = []

    def strangers_first() -> None:
        with pytest.raises(StartupError, match="does not know this rank's key"):
            pipes.connect(address, b"another key")
        pipes._connected(address).close()
        with pipes.connect(address, KEY) as pipe:
            said.append(pipe.recv_bytes().decode())

    ranks = threading.Thread(target=strangers_first)
    ranks.start()
    (worker,) = pipes.accept_workers(address, KEY, 1)
    with worker:
        worker.send_bytes(b"a plan")
        ranks.join(60)
    assert said == ["a plan"]


def test_who_says_nothing_keeps_rank_0_waiting_for_a_while_only() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(OSError, match="unavailable"):
        pipes._proven(ours, KEY, 1, asks_first=True)
