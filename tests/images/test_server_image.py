"""Dockerfile.server's build stages in a plain virtual environment.

The CPU build is carried out, and the installed server serves; only torch itself is not unpacked a second time, but
linked from the environment that the tests run in. The CUDA build, gigabytes of it, is resolved against the constraints
but not downloaded. Not covered: the base images, apt-get, torch's own index of CPU builds, and any GPU.
"""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from images.dockerfile import ROOT, Build, Dockerfile, require_package_index

READY = re.compile(r"ready at (http://\S+)")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The CPU build."""
    build = Build(tmp_path_factory.mktemp("server-image"))
    venv, torch, project = Dockerfile(ROOT / "Dockerfile.server", DEVICE="cpu").chain("build")
    build.run(venv)
    (packages,) = (build.folder / "opt/textgen").glob("lib/python*/site-packages")
    link_distribution("torch", packages)
    build.run(torch)
    build.run(project)
    return build


def link_distribution(name: str, packages: Path) -> None:
    """Make a library of this environment part of another."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if not file.is_absolute()} - {".."}:
        (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def test_the_installed_server_serves_the_embedded_model(build: Build, smollm2_folder: Path) -> None:
    """Through the image's entry point, with what the image has and nothing else."""
    cache = os.environ.get("TEXTGEN_TEST_CACHE") or str(Path.home() / ".cache" / "textgen-tests")
    env = {**build.env, "HUGGINGFACE_HUB_CACHE": cache, "PORT": "0", "CPU_KV_CACHE_GIB": "0.1"}
    command = [str(ROOT / "images" / "server-entrypoint"), "--hostname", "127.0.0.1"]
    with subprocess.Popen(command, env=env, cwd="/", stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = []
            while not (ready := READY.search(line := server.stderr.readline())):
                lines.append(line)
                assert line, "".join(lines)
            assert generate(ready[1])
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0


def generate(url: str) -> str:
    body = json.dumps({"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 8}}).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        text: str = json.load(reply)["generated_text"]
        return text


def test_cuda_s_torch_resolves_under_the_constraints(tmp_path: Path) -> None:
    """Every package that pip would install for it has its version in constraints.txt. What the build installs after
    it is the same for the CPU."""
    file = Dockerfile(ROOT / "Dockerfile.server", DEVICE="cuda")
    (command,) = [command for stage in file.chain("torch-cuda") for command in stage.values("RUN") if "pip" in command]
    resolved = resolve(command.split(), tmp_path)
    assert {"torch", "triton", "nvidia-nccl-cu13"} <= resolved.keys()
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {canonical(name): version for name, version in pins}
    assert resolved == {name: pinned.get(name) for name in resolved}


def resolve(command: list[str], folder: Path) -> dict[str, str]:
    """Name -> version of what a command that installs torch would install; nothing is."""
    assert command[-1] == "torch"
    # `===` asks for PyPI's build, by its very version, even where a local index has 2.13.0+cpu too.
    torch = "torch===" + importlib.metadata.version("torch").partition("+")[0]
    report = folder / "report.json"
    flags = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    pip = [sys.executable, "-m", *command[:-1], *flags, torch]
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        require_package_index(done.stderr)
    assert done.returncode == 0, done.stderr
    return {
        canonical(package["metadata"]["name"]): package["metadata"]["version"]
        for package in json.loads(report.read_text())["install"]
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
