"""The queue of services that need a look: each at most once, never two workers on the same, failures spaced out.

Filled by the handlers, the informers and the resync; emptied by the controller's workers.
"""

import asyncio
import contextlib
import heapq
import random
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY = 0.5
"""Seconds before the first retry; each further one waits twice as long."""

LONGEST_RETRY = 120.0
"""Seconds between retries at most."""

SPACING = 0.2
"""Seconds between two looks at the same key, so that a burst of events costs one look."""


class WorkQueue(Generic[Key]):
    """Keys with the time at which each is due.

    A key is in one of three states: absent, waiting (in `_due`), or taken by a worker (in `_taken`). A key that is
    added while it is taken waits until its worker says `done`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0
        self._taken: dict[Key, float] = {}
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Have a key looked at after `delay` seconds, or earlier when it waits for an earlier time already."""
        self._schedule(key, self._clock() + delay)

    def retry(self, key: Key) -> None:
        """Have a key looked at again after a failure: later after each one, with jitter."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
        self.add(key, delay * random.uniform(0.5, 1.0))

    def succeeded(self, key: Key) -> None:
        """Forget a key's failures."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """The key that is due first, as soon as it is; the caller must say `done`."""
        while True:
            wait = self._seconds_to_next()
            if wait is not None and wait <= 0:
                _, _, key = heapq.heappop(self._heap)
                del self._due[key]
                self._taken[key] = self._clock()
                return key
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def done(self, key: Key) -> None:
        """A worker has finished with a key."""
        taken_at = self._taken.pop(key)
        if key in self._again:
            self._schedule(key, max(self._again.pop(key), taken_at + SPACING))

    def depth(self) -> int:
        """Keys that are due, whether they wait for a worker or one works on them."""
        now = self._clock()
        return len(self._taken) + sum(due <= now for due in self._due.values())

    def longest_overdue(self) -> float:
        """Seconds by which the most belated key is late, whether it waits or is being worked on."""
        now = self._clock()
        return max([0.0, *(now - since for since in (*self._due.values(), *self._taken.values()))])

    def _schedule(self, key: Key, due: float) -> None:
        if key in self._taken:
            self._again[key] = min(due, self._again.get(key, due))
        elif key not in self._due or due < self._due[key]:
            self._due[key] = due
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, key))
            self._changed.set()

    def _seconds_to_next(self) -> float | None:
        # An entry whose key was rescheduled for earlier, or taken, is stale.
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] - self._clock() if self._heap else None
