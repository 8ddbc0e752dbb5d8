"""Ports for the processes that tests start."""

import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on.

    Not one of those that the system gives to outgoing connections, which may take it before the process binds it.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
