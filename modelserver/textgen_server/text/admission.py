"""The number of requests that may be in flight. Asked by generation.py before any work is done for a request."""

from collections.abc import Iterator
from contextlib import contextmanager

from textgen_server.errors import Overloaded


class Admission:
    """Counts places. For one event loop; not safe between threads.

    Attributes:
        limit: places that exist.
        in_flight: places that are taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    @contextmanager
    def hold(self, places: int = 1) -> Iterator[None]:
        """Take `places` for the length of the block. Raises Overloaded at once when there are too few; never waits."""
        if self.in_flight + places > self.limit:
            raise Overloaded
        self.in_flight += places
        try:
            yield
        finally:
            self.in_flight -= places
