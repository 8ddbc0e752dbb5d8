"""Lines of progress: for people, and with their numbers for machines."""

import io
import json
import logging

import pytest

from textgen_server.telemetry import JsonFormatter
from textgen_server.weights import progress
from textgen_server.weights.progress import Transfer, log_progress, report


def test_a_line_tells_amount_speed_and_time_left() -> None:
    line = report("downloading", "org/name", 3_210_000_000, 14_480_000_000, 350e6)

    assert line == "downloading org/name: 3.21 of 14.48 GB, 0.35 GB/s, 32 s left"


def test_before_the_first_byte_no_time_left_is_told() -> None:
    line = report("loading", "llama", 0, 100, 0.0)

    assert line == "loading llama: 0.00 of 0.00 GB, 0.00 GB/s"
    assert line.fields["seconds_left"] is None


def test_a_transfer_reports_every_few_seconds_and_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 104.0, 106.0, 106.0, 107.0, 107.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    transfer = Transfer("loading", "llama", 4_000_000_000, lines.append, interval=5.0)
    for _ in range(4):
        transfer.add(500_000_000)
    transfer.report()

    assert lines == [
        "loading llama: 1.50 of 4.00 GB, 0.25 GB/s, 10 s left",
        "loading llama: 2.00 of 4.00 GB, 0.29 GB/s, 7 s left",
    ]


def test_logged_as_json_a_line_has_its_numbers() -> None:
    logger, stream = logging.getLogger("test_progress"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    log_progress(logger)(report("converting", "x", 1, 2, 1.0))
    log_progress(logger)("looking up x")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["progress"] == {
        "stage": "converting",
        "what": "x",
        "done_bytes": 1,
        "total_bytes": 2,
        "bytes_per_second": 1,
        "seconds_left": 1.0,
    }
    assert "progress" not in second
