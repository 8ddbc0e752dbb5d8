"""How urgent a request is. Known to the APIs, the wire and the engine's queue."""

import enum


class Priority(enum.IntEnum):
    """A class of requests; the lower number goes first."""

    HIGH = -1
    NORMAL = 0
    LOW = 1
