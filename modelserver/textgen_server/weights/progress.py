"""How far a long transfer is: lines for people, with the numbers for machines. Used by whatever moves weights."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

Progress = Callable[[str], None]

SECONDS_BETWEEN_REPORTS = 5.0


class Report(str):
    """A line of progress; `fields` are its numbers: `stage`, `what`, `done_bytes`, `total_bytes`, `bytes_per_second`
    and `seconds_left`."""

    __slots__ = ("fields",)
    fields: Mapping[str, Any]

    def __new__(cls, line: str, fields: Mapping[str, Any]) -> Self:
        report = super().__new__(cls, line)
        report.fields = fields
        return report


def log_progress(logger: logging.Logger) -> Progress:
    """Logs lines; with --json-output those of progress have the numbers as the field `progress`."""

    def log(line: str) -> None:
        fields = {"progress": dict(line.fields)} if isinstance(line, Report) else {}
        logger.info("%s", line, extra={"fields": fields})

    return log


class Transfer:
    """Counts the bytes of one transfer, from any thread, and reports every few seconds.

    Args:
        stage: what happens to them: "downloading", "converting" or "loading".
        what: the model's or file's name.
        total: bytes in all.
    """

    def __init__(
        self, stage: str, what: str, total: int, progress: Progress, interval: float = SECONDS_BETWEEN_REPORTS
    ) -> None:
        self.done = 0
        self.started = time.monotonic()
        self._stage, self._what, self._total = stage, what, total
        self._progress = progress
        self._interval = interval
        self._reported = self.started
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` bytes more."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._reported < self._interval:
                return
            self._reported = now
        self.report()

    def report(self) -> None:
        """Report now."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        self._progress(report(self._stage, self._what, self.done, self._total, self.done / seconds))


def report(stage: str, what: str, done: int, total: int, speed: float) -> Report:
    """The line for `done` of `total` bytes at `speed` bytes per second."""
    left = (total - done) / speed if speed else None
    line = f"{stage} {what}: {done / 1e9:.2f} of {total / 1e9:.2f} GB, {speed / 1e9:.2f} GB/s"
    if left is not None and left >= 0.5:
        line += f", {left:.0f} s left"
    numbers = {
        "stage": stage,
        "what": what,
        "done_bytes": done,
        "total_bytes": total,
        "bytes_per_second": round(speed),
        "seconds_left": None if left is None else round(left, 1),
    }
    return Report(line, numbers)
