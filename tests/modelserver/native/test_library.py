"""Where the CPU's kernels come from, and what happens where they cannot come from anywhere."""

import logging
from pathlib import Path

import pytest
from harness import generate, make_runner
from shapes import SHAPES, save_checkpoint

from textgen_server.attention.cpu import CpuAttention
from textgen_server.native import library


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has no kernels yet; returns its cache."""
    monkeypatch.setattr(library, "_loaded", [])
    monkeypatch.setattr(library, "BUILT", tmp_path / "built")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_a_compiler_the_model_writes_the_same_by_torchs_operators(
    tmp_path: Path, nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, prompts = save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path / "model"), [[5, 6, 7, 8], [9] * 40]
    monkeypatch.setattr(library, "COMPILER", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        runner = make_runner(folder)
    assert "there is no C++ compiler (no-such-compiler)" in caplog.text
    assert library.kernels() is None
    assert runner.layout.backend is CpuAttention
    without = generate(runner, prompts, 6)
    monkeypatch.undo()
    assert generate(make_runner(folder), prompts, 6) == without


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "FLAGS", ("--no-such-flag",))
    with caplog.at_level(logging.WARNING):
        assert not library.use()
    assert "--no-such-flag" in caplog.text
    assert list(nothing_compiled.rglob("*.so")) == []


def test_a_cache_that_cannot_be_written_is_named(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nothing_compiled.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert not library.use()
    assert f"cannot be written to {nothing_compiled / 'textgen' / 'kernels'}: Not a directory" in caplog.text


def test_a_library_that_does_not_load_is_named(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = nothing_compiled.parent / "broken.so"
    broken.write_text("no library")
    monkeypatch.setattr(library, "_for_this_machine", lambda flags: broken)
    with caplog.at_level(logging.WARNING):
        assert not library.use()
    assert f"{broken} cannot be loaded" in caplog.text
