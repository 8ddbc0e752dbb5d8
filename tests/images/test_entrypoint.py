"""images/server-entrypoint: where the cache is, when /data cannot be written to."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from images.dockerfile import ROOT

SERVER = '#!/bin/sh\necho "cache=$HUGGINGFACE_HUB_CACHE args=$*"\n'
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may look into, with the script, a `textgen-server` that tells what it is given, and an
    empty `data` that only its owner, root where these tests run as root, may write to."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(ROOT / "images" / "server-entrypoint", folder)
        (folder / "textgen-server").write_text(SERVER)
        (folder / "textgen-server").chmod(0o755)
        (folder / "data").mkdir(mode=0o755 if os.geteuid() == 0 else 0o555)
        yield folder


def start(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "HUGGINGFACE_HUB_CACHE": str(folder / "data")}
    user = NOBODY if os.geteuid() == 0 else None
    command = [str(folder / "server-entrypoint"), *args]
    return subprocess.run(command, env=env, user=user, capture_output=True, text=True, check=True)


def test_a_folder_that_docker_made_as_root_does_not_stop_the_server(folder: Path) -> None:
    done = start(folder, "--model-id", "org/name", "--num-shard", "1")
    assert done.stdout == "cache=/tmp/models args=--model-id org/name --num-shard 1\n"
    assert f"cannot write to {folder / 'data'}" in done.stderr
    assert "chown 1000:1000" in done.stderr


def test_a_folder_that_can_be_written_to_is_used(folder: Path) -> None:
    (folder / "data").chmod(0o777)
    done = start(folder)
    assert done.stdout == f"cache={folder / 'data'} args=\n"
    assert done.stderr == ""


def test_a_read_only_folder_with_models_is_used(folder: Path) -> None:
    (folder / "data").chmod(0o755)
    (folder / "data" / "models--org--name").mkdir()
    (folder / "data").chmod(0o555)
    done = start(folder)
    assert done.stdout == f"cache={folder / 'data'} args=\n"
    assert done.stderr == ""


@pytest.mark.parametrize("given", [["--huggingface-hub-cache", "/models"], ["--huggingface-hub-cache=/models"]])
def test_a_folder_named_by_flag_is_never_replaced(folder: Path, given: list[str]) -> None:
    done = start(folder, *given)
    assert done.stdout == f"cache={folder / 'data'} args={' '.join(given)}\n"
    assert done.stderr == ""
