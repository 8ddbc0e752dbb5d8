"""Dockerfile.operator's build stage, carried out in a plain virtual environment: a real installation, from the same
package index that the development environment came from."""

import subprocess
from pathlib import Path

import pytest
from images.dockerfile import ROOT, Build, Dockerfile


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = Build(tmp_path_factory.mktemp("operator-image"))
    build.run(Dockerfile(ROOT / "Dockerfile.operator").stages["build"])
    return build


def run(build: Build, *command: str) -> subprocess.CompletedProcess[str]:
    program = build.folder / "opt" / "textgen" / "bin" / command[0]
    return subprocess.run([program, *command[1:]], env=build.env, cwd=Path("/"), capture_output=True, text=True)


def test_the_entry_point_runs(build: Build) -> None:
    helped = run(build, "textgen-operator", "serve", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--server-image" in helped.stdout


def test_the_operator_needs_nothing_that_its_image_lacks(build: Build) -> None:
    """Every module imports, and a service is rendered."""
    program = "import pkgutil, importlib, textgen_operator as o\n"
    program += "for m in pkgutil.walk_packages(o.__path__, 'textgen_operator.'): importlib.import_module(m.name)"
    imported = run(build, "python", "-c", program)
    assert imported.returncode == 0, imported.stderr
    rendered = run(build, "textgen-operator", "render", str(ROOT / "examples" / "zephyr.yaml"))
    assert "kind: StatefulSet" in rendered.stdout


def test_the_image_is_small_and_without_torch(build: Build) -> None:
    installed = {path.name for path in (build.folder / "opt/textgen").glob("lib/python*/site-packages/*")}
    assert "kopf" in installed
    assert not installed & {"torch", "transformers", "tokenizers", "grpc", "numpy", "fastapi"}
    megabytes = sum(path.lstat().st_size for path in (build.folder / "opt").rglob("*")) / 1e6
    assert megabytes < 150
