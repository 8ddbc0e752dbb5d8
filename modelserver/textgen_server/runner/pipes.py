"""The pipes that carry plans from rank 0 to the other ranks: Unix sockets on one machine, TCP between machines.

Both ends prove that they know the key before anything is read, because what comes out of a pipe is unpickled. An
endpoint that cannot, or says nothing, is turned away, and others are waited for.
"""

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from textgen_server.errors import StartupError
from textgen_server.network import listening_host

_log = logging.getLogger(__name__)

Address = Path | tuple[str, int]
"""Of a Unix socket, or host and port."""

CONNECT_SECONDS = 60
"""Rank 0 may have strangers to turn away first."""

PROOF_SECONDS = 10
"""How long one of them may keep it waiting."""


def accept_workers(address: Address, key: bytes, count: int) -> list[Connection]:
    """Rank 0: wait until `count` workers have connected at `address` and shown that they know `key`."""
    workers: list[Connection] = []
    with _listener(address, count) as listener:
        while len(workers) < count:
            end, peer = listener.accept()
            try:
                workers.append(_proven(end, key, PROOF_SECONDS, asks_first=True))
            except (AuthenticationError, EOFError, OSError) as error:
                _log.warning("turned away %s at the ranks' pipe: %s", peer or "a process", error)
    return workers


def connect(address: Address, key: bytes) -> Connection:
    """Another rank: the pipe from rank 0, which may open it a little later. Raises StartupError when it does not, or
    when it has another key."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            end = _connected(address)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise StartupError(f"rank 0 did not open {address} within {CONNECT_SECONDS} s") from None
            time.sleep(0.02)
    try:
        return _proven(end, key, CONNECT_SECONDS, asks_first=False)
    except (AuthenticationError, EOFError, OSError) as error:
        raise StartupError(f"rank 0 at {address} does not know this rank's key: {error}") from None


def _proven(end: socket.socket, key: bytes, seconds: int, *, asks_first: bool) -> Connection:
    """`end` as a connection, once both sides know of each other that they have the key. The other may think for
    `seconds` about each answer."""
    with end:
        _set_timeout(end, seconds)
        if end.family != socket.AF_UNIX:
            # Plans are sent without waiting for answers: the kernel must not collect them.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(os.dup(end.fileno()))
        steps = (deliver_challenge, answer_challenge)
        try:
            for step in steps if asks_first else reversed(steps):
                step(connection, key)
            _set_timeout(end, 0)
        except BaseException:
            connection.close()
            raise
    return connection


def _set_timeout(end: socket.socket, seconds: int) -> None:
    """For reads of the descriptor itself, which Python's own timeouts are not for; 0 waits forever."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


@contextlib.contextmanager
def _listener(address: Address, backlog: int) -> Iterator[socket.socket]:
    if isinstance(address, Path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(address))
            listener.listen(backlog)
            try:
                yield listener
            finally:
                address.unlink(missing_ok=True)
    else:
        host, port = address
        family, host = listening_host(host)
        with socket.create_server((host, port), family=family, backlog=backlog) as listener:
            yield listener


def _connected(address: Address) -> socket.socket:
    if not isinstance(address, Path):
        return socket.create_connection(address)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.connect(str(address))
    except OSError:
        end.close()
        raise
    return end
