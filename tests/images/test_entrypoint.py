"""images/server-entrypoint: where the cache is, when /data cannot be written to; and what clouds call things."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from images.dockerfile import ROOT

from textgen_server.settings import EMBEDDED_MODEL, ServerSettings, parse

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


def start(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "HUGGINGFACE_HUB_CACHE": str(folder / "data"), **variables}
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


def settings(folder: Path, *args: str, **variables: str) -> ServerSettings:
    """What the server understands of what the entry point hands it, in an image that sets PORT=80."""
    (folder / "data").chmod(0o777)
    (folder / "textgen-server").write_text('#!/bin/sh\nenv\necho "args=$*"\n')
    lines = start(folder, *args, PORT="80", **variables).stdout.splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*os.environ, *environment):
            if name.lower() in ServerSettings.model_fields:
                patch.delenv(name, raising=False)
        for name, value in environment.items():
            if name.lower() in ServerSettings.model_fields:
                patch.setenv(name, value)
        return parse(environment["args"].split())


def test_vertex_ai_chooses_port_and_paths(folder: Path) -> None:
    asked = {"AIP_HTTP_PORT": "8081", "AIP_PREDICT_ROUTE": "/v1/endpoints/1:predict", "AIP_HEALTH_ROUTE": "/alive"}
    found = settings(folder, "--model-id", "org/name", **asked)
    assert (found.port, found.predict_route, found.health_route) == (8081, "/v1/endpoints/1:predict", "/alive")
    assert found.model_id == "org/name"


def test_sagemaker_says_serve_and_calls_the_model_by_its_own_variables(folder: Path) -> None:
    asked = {"HF_MODEL_ID": "org/name", "HF_MODEL_REVISION": "v2", "SM_NUM_GPUS": "4"}
    found = settings(folder, "serve", HF_MODEL_QUANTIZE="bitsandbytes-nf4", **asked)
    assert (found.port, found.model_id, found.revision) == (8080, "org/name", "v2")
    assert (found.num_shard, found.quantize) == (4, "bitsandbytes-nf4")


def test_elsewhere_the_servers_own_names_and_defaults_hold(folder: Path) -> None:
    found = settings(folder, MODEL_ID="mine", HF_MODEL_ID="theirs")
    assert (found.port, found.model_id, found.predict_route) == (80, "mine", None)
    assert settings(folder).model_id == EMBEDDED_MODEL
