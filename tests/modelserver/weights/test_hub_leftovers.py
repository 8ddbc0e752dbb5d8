"""What killed downloads leave in the hub's cache."""

import fcntl
import os
from pathlib import Path

import pytest

from textgen_server.weights.hub import clear_leftovers

ETAG = "0123abcd" * 8


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "locks").mkdir()
    return tmp_path / "blobs"


def leftover(blobs: Path, name: str, age: float) -> Path:
    path = blobs / f"{name}.incomplete"
    path.write_bytes(b"half")
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


@pytest.mark.parametrize("locked_once", [True, False])
def test_it_is_deleted_and_whole_files_stay(blobs: Path, locked_once: bool) -> None:
    left, whole = leftover(blobs, f"{ETAG}.12ab34cd", age=3600), blobs / ETAG
    whole.write_bytes(b"whole")
    if locked_once:
        (blobs.parent / "locks" / f"{ETAG}.lock").touch()

    clear_leftovers(blobs, blobs.parent / "locks")

    assert not left.exists()
    assert whole.exists()


def test_what_is_being_written_stays(blobs: Path) -> None:
    left = leftover(blobs, f"{ETAG}.12ab34cd", age=-3600)

    clear_leftovers(blobs, blobs.parent / "locks")

    assert left.exists()


def test_what_a_living_download_holds_stays(blobs: Path) -> None:
    left = leftover(blobs, f"{ETAG}.12ab34cd", age=3600)
    with (blobs.parent / "locks" / f"{ETAG}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_leftovers(blobs, blobs.parent / "locks")

    assert left.exists()


def test_a_model_that_was_never_fetched_has_none(tmp_path: Path) -> None:
    clear_leftovers(tmp_path / "blobs", tmp_path / "locks")
