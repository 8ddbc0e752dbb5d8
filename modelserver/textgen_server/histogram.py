"""Counts of values by buckets, for what is measured at every step or token: a list, without locks or labels. Kept by
the engine's loop and by api/metrics.py, each on one thread."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Values, counted.

    Args:
        bounds: upper bounds of the buckets, ascending.

    Attributes:
        counts: values of each bucket alone; the last has no upper bound.
        sum: of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`; one that equals a bound is below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value
