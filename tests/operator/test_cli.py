"""The command, as users type it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from operator_samples import EXAMPLES

from textgen_operator import local
from textgen_operator.cli import main
from textgen_operator.render import Defaults, render
from textgen_operator.yamlfile import load_services

SMOLLM2 = next(example for example in EXAMPLES if example.stem == "smollm2")
ZEPHYR = next(example for example in EXAMPLES if example.stem == "zephyr")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_render_prints_what_the_operator_would_apply(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(example)]) == 0
    expected = [manifest for service in load_services(example) for manifest in render(service, Defaults())]
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == expected


def test_render_takes_the_installations_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(SMOLLM2), "--server-image", "mine:1", "--name", "smollm2"]) == 0
    assert "image: mine:1" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "render"])
def test_a_wrong_file_is_explained_and_the_exit_code_tells(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(SMOLLM2.read_text().replace("gpu:", "gpus:"))
    assert main([command, str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{file}:")
    assert "spec.gpus: there is no such field" in captured.err


def test_a_gpu_that_is_not_there_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_count_gpus", lambda: 0)
    assert main(["run", str(ZEPHYR)]) == 1
    assert "zephyr.yaml: spec.gpu.count is 1, but this machine has no GPU" in capsys.readouterr().err


def test_serve_without_a_cluster_says_what_to_set(tmp_path: Path) -> None:
    # A process of its own, because it sets up logging.
    program = Path(sys.executable).with_name("textgen-operator")
    result = subprocess.run(
        [program, "serve"], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert "textgen-operator: no cluster found: set KUBECONFIG" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_loads_neither_torch_nor_kopf_to_render() -> None:
    code = (
        "import sys; from textgen_operator.cli import main; "
        f"main(['render', {str(SMOLLM2)!r}]); "
        "print([name for name in ('torch', 'kopf', 'aiohttp') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stderr.strip() == "[]"
