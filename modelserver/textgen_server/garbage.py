"""When Python's garbage collector works: between steps and when nothing is asked for, never where tokens would wait.

Left alone it starts after so many allocations, in the middle of whatever makes them. Counting references frees nearly
all that a request leaves behind; what the collector is for, cycles of tasks and tracebacks, can wait.
"""

import asyncio
import gc
from collections.abc import Callable

MANY = 200_000
"""So many more new objects than freed ones, and the young are collected between two steps: some milliseconds."""
SOME = 5_000
"""So many, and all are collected when nothing is asked for."""
LOOK_SECONDS = 1.0


def take_over() -> None:
    """Collect what starting has left, never look at the rest of it again, and from here on only in `tidy`."""
    gc.collect()
    gc.freeze()
    gc.disable()


def tidy(quiet: bool) -> None:
    """Collect if it is due. Costs nothing else.

    Args:
        quiet: nobody waits.
    """
    new = gc.get_count()[0]
    if quiet and new > SOME:
        gc.collect()
    elif new > MANY:
        gc.collect(1)


async def keep_tidy(quiet: Callable[[], bool]) -> None:
    """Look every second whether it is due, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        tidy(quiet())
