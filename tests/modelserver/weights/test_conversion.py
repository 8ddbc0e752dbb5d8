import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from textgen_server.errors import CheckpointError, ModelSourceError
from textgen_server.weights.conversion import converted, fingerprint

Progress = Callable[[str], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "My Model.Q4.gguf"
    path.write_bytes(b"weights" * 1000)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_copy(source: Path, folder: Path, progress: Progress) -> None:
    progress(f"converting {source.name}")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(source.read_bytes() * 2)


def forbidden(source: Path, folder: Path, progress: Progress) -> None:
    raise AssertionError("converted again")


def ignore(line: str) -> None:
    pass


def test_a_file_is_converted_once_and_then_found_again(source: Path, cache: Path) -> None:
    folder = converted(source, cache, write_copy, ignore)

    assert converted(source, cache, forbidden, ignore) == folder
    assert folder.parent == cache / "textgen-converted"
    assert folder.name.startswith("My_Model.Q4-")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "textgen.json"]


def test_the_same_content_elsewhere_is_the_same_model(source: Path, cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / source.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(source.read_bytes())

    assert converted(elsewhere, cache, write_copy, ignore) == converted(source, cache, forbidden, ignore)


def test_other_content_under_the_same_name_is_another_model(source: Path, cache: Path) -> None:
    before = converted(source, cache, write_copy, ignore)
    source.write_bytes(source.read_bytes()[:-1] + b"!")

    assert converted(source, cache, write_copy, ignore) != before


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def lose_a_write(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))


def edit(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_the_manifest(folder: Path) -> None:
    (folder / "textgen.json").write_text("{")


def empty_the_manifest(folder: Path) -> None:
    (folder / "textgen.json").write_text("{}")


@pytest.mark.parametrize("damage", [truncate, lose_a_write, edit, remove, break_the_manifest, empty_the_manifest])
def test_a_damaged_conversion_is_made_again(source: Path, cache: Path, damage: Callable[[Path], None]) -> None:
    folder = converted(source, cache, write_copy, ignore)
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    lines: list[str] = []

    converted(source, cache, write_copy, lines.append)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == sound
    assert lines[0] == f"{folder} is damaged: converting My Model.Q4.gguf again"


def test_a_failed_conversion_leaves_nothing_that_could_be_taken_for_one(source: Path, cache: Path) -> None:
    def fail(source: Path, folder: Path, progress: Progress) -> None:
        write_copy(source, folder, progress)
        raise CheckpointError("no such tensor")

    with pytest.raises(CheckpointError, match="no such tensor"):
        converted(source, cache, fail, ignore)

    assert [path.name for path in (cache / "textgen-converted").iterdir() if path.is_dir()] == []
    assert converted(source, cache, write_copy, ignore).is_dir()


def test_what_a_killed_process_left_is_cleared_away(source: Path, cache: Path) -> None:
    folder = converted(source, cache, write_copy, ignore)
    partial = folder.with_name(f".{folder.name}.partial")
    folder.rename(partial)
    (partial / "left.over").touch()

    assert converted(source, cache, write_copy, ignore) == folder
    assert not partial.exists()
    assert not (folder / "left.over").exists()


def test_two_at_once_convert_once(source: Path, cache: Path) -> None:
    converting, second_waits = threading.Event(), threading.Event()
    lines: list[str] = []
    results: list[Path] = []

    def slowly(source: Path, folder: Path, progress: Progress) -> None:
        converting.set()
        assert second_waits.wait(10)
        write_copy(source, folder, progress)

    def second_progress(line: str) -> None:
        lines.append(line)
        second_waits.set()

    first = threading.Thread(target=lambda: results.append(converted(source, cache, slowly, ignore)))
    first.start()
    assert converting.wait(10)
    results.append(converted(source, cache, forbidden, second_progress))
    first.join(10)

    assert lines == ["waiting for another process that converts My Model.Q4.gguf"]
    assert len(results) == 2
    assert results[0] == results[1]


def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(source: Path, cache: Path) -> None:
    def fill_up(source: Path, folder: Path, progress: Progress) -> None:
        (folder / "model.safetensors").write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelSourceError, match=r"into the cache .*: No space left on device \(HUGGINGFACE_HUB_CACHE"):
        converted(source, cache, fill_up, ignore)

    assert [path for path in (cache / "textgen-converted").iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_named(source: Path, cache: Path) -> None:
    cache.write_text("a file")

    with pytest.raises(ModelSourceError, match=f"into the cache {cache}"):
        converted(source, cache, write_copy, ignore)


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"cannot read .*gone\.gguf: No such file"):
        converted(tmp_path / "gone.gguf", cache, write_copy, ignore)


@pytest.mark.parametrize("position", [0, 8_000_000, 12_000_000, 39_999_999])
def test_a_fingerprint_sees_every_stretch_of_a_large_file(tmp_path: Path, position: int) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(40_000_000))
    before = fingerprint(path)
    with path.open("r+b") as file:
        file.seek(max(position - 1_000_000, 0))
        file.write(b"x" * min(1_000_000, 40_000_000 - position + 1_000_000))

    assert fingerprint(path) != before
    assert path.stat().st_size == 40_000_000


def test_a_fingerprint_sees_every_byte_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "small"
    seen = set()
    for position in range(64):
        path.write_bytes(bytes(position) + b"x" + bytes(63 - position))
        seen.add(fingerprint(path))

    assert len(seen) == 64
