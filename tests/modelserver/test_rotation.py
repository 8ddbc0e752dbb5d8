"""Files that are replaced while the server runs."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from textgen_server import rotation
from textgen_server.errors import StartupError
from textgen_server.rotation import Rotated, keep_fresh


def words(contents: Sequence[bytes]) -> list[str]:
    if any(b"bad" in content for content in contents):
        raise StartupError("there is a bad word")
    return [content.decode() for content in contents]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "one", tmp_path / "two"]
    for path in made:
        path.write_text(path.name)
    return made


def test_a_file_that_is_missing_at_the_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=f"cannot read {tmp_path / 'none'}: No such file or directory"):
        Rotated([tmp_path / "none"], words)


def test_what_is_written_is_taken_over(paths: list[Path]) -> None:
    files = Rotated(paths, words)
    paths[1].write_text("new")
    assert files.value == ["one", "two"]
    files.refresh()
    assert files.value == ["one", "new"]


def test_a_link_that_changes_its_target_is_a_change(tmp_path: Path) -> None:
    """As in Kubernetes' volumes of secrets."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(version)
    link = tmp_path / "data"
    link.symlink_to("v1")
    files = Rotated([link / "key"], words)
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(link)
    files.refresh()
    assert files.value == ["v2"]


@pytest.mark.parametrize("trouble", ["missing", "bad"])
def test_what_cannot_be_used_is_logged_once_and_changes_nothing(
    paths: list[Path], trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = Rotated(paths, words)
    paths[0].unlink() if trouble == "missing" else paths[0].write_text("bad")
    for _ in range(3):
        files.refresh()
    assert files.value == ["one", "two"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "going on with what" in caplog.text
    paths[0].write_text("better")
    files.refresh()
    assert files.value == ["better", "two"]


def test_files_that_change_while_they_are_read_are_read_again(paths: list[Path]) -> None:
    hurry = True

    def slowly(contents: Sequence[bytes]) -> list[str]:
        if hurry and b"first" in contents:
            paths[1].write_text("second")
        return words(contents)

    files = Rotated(paths, slowly)
    paths[0].write_text("first")
    files.refresh()
    assert files.value == ["one", "two"]
    hurry = False
    files.refresh()
    assert files.value == ["first", "second"]


async def test_the_server_looks_by_itself(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LOOK_SECONDS", 0.01)
    files = Rotated(paths, words)
    looking = asyncio.create_task(keep_fresh([files]))
    paths[0].write_text("new")
    async with asyncio.timeout(60):
        while files.value[0] != "new":  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
