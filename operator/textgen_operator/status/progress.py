"""How far a server is that starts: read from the lines of its log, which with --json-output have the numbers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from textgen_operator.kinds import Manifest

_MOST = 2**53
"""Largest number that is believed; NaN is not less either."""

_LONGEST, _LONGEST_STAGE = 512, 64
"""Characters that are believed."""

DOWNLOADING, CONVERTING, LOCATED, LOADING = "downloading", "converting", "located", "loading"


@dataclass(frozen=True)
class Progress:
    """One report of a server.

    Attributes:
        pod: whose.
        stage: the server's own word: downloading, converting, located (all files are there) or loading.
        what: the model or file.
        done_bytes, total_bytes: so far, and in all.
        bytes_per_second, seconds_left: None where the server does not say.
        revision: commit of the model, which `located` tells; empty where there is none.
        time: when it was logged; with a time zone, None where the log does not say.
    """

    pod: str
    stage: str
    what: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: int | None = None
    seconds_left: float | None = None
    revision: str = ""
    time: datetime | None = None

    @property
    def percent(self) -> int:
        """Whole percents; 0 when the size is not known."""
        return min(100, 100 * self.done_bytes // self.total_bytes) if self.total_bytes else 0

    def as_status(self) -> Manifest:
        """`status.load`."""
        load: Manifest = {"stage": self.stage.capitalize(), "percent": self.percent, "totalBytes": self.total_bytes}
        if self.bytes_per_second is not None:
            load["bytesPerSecond"] = self.bytes_per_second
        if self.seconds_left is not None:
            load["remainingSeconds"] = round(self.seconds_left)
        return load

    def __str__(self) -> str:
        size = f"{self.done_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB"
        return f"{self.stage} {self.what}: {self.percent} %, {size}"


def reports(pod: str, log: str) -> Iterator[Progress]:
    """Every report in a log, as the API server gives it with a time before each line."""
    for line in log.splitlines():
        time, _, rest = line.partition(" ")
        found = _report(rest)
        if found:
            yield _progress(pod, found, _instant(time))


def _report(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)["progress"]
    except (ValueError, KeyError, TypeError):
        return None
    known = isinstance(found, dict) and isinstance(found.get("stage"), str)
    return found if known else None


def _progress(pod: str, found: dict[str, Any], time: datetime | None) -> Progress:
    speed, left = found.get("bytes_per_second"), found.get("seconds_left")
    return Progress(
        pod,
        found["stage"][:_LONGEST_STAGE],
        str(found.get("what", ""))[:_LONGEST],
        _number(found.get("done_bytes")),
        _number(found.get("total_bytes")),
        None if speed is None else _number(speed),
        None if left is None else float(_number(left)),
        str(found.get("revision", ""))[:_LONGEST],
        time,
    )


def _number(value: object) -> int:
    """The number, if it is one that a status takes: what an image prints may be anything."""
    sane = isinstance(value, int | float) and 0 <= value <= _MOST
    return round(value) if sane and isinstance(value, int | float) else 0


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
