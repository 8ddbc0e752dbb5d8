"""`textgen-server detect-watermark`: what it says and how it ends. What it finds: tests/server/test_watermark.py."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import serve_hub
from front import write_model_folder

from textgen_server import launcher
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.watermark import Watermark, detect

TEXT = "the quick brown fox jumps over the lazy dog; hello world, what is deep learning?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer's folder, without weights."""
    return write_model_folder(tmp_path / "model")


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the command; returns exit code, output and errors."""

    def call(*arguments: object, text: bytes = TEXT.encode()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["textgen-server", "detect-watermark", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        code = launcher.main()
        return code, *capsys.readouterr()

    return call


def test_the_numbers_are_those_of_the_function(run, folder):
    code, output, _ = run("--model-id", folder, "--json", "--watermark-gamma", "0.25", "--watermark-key", "5")
    tokens = Tokenizer.load(folder).encode(TEXT, add_special_tokens=False)
    expected = detect(tokens, Watermark(0.25, key=5))
    assert code == 1
    assert json.loads(output) == {
        "watermarked": False,
        "total": expected.total,
        "green": expected.green,
        "z": expected.z,
        "p": expected.p,
        "tokens": len(tokens),
    }


def test_the_verdict_follows_the_threshold(run, folder):
    assert run("--model-id", folder, "--threshold", "-100")[0] == 0
    assert "watermark found" in run("--model-id", folder, "--threshold=-100")[1]
    assert run("--model-id", folder, "--threshold", "100")[0] == 1


def test_the_servers_environment_counts(run, folder, monkeypatch):
    by_flags = run("--model-id", folder, "--json", "--watermark-gamma", "0.25", "--watermark-key", "5")
    for name, value in {"MODEL_ID": str(folder), "WATERMARK_GAMMA": "0.25", "WATERMARK_KEY": "5"}.items():
        monkeypatch.setenv(name, value)
    assert run("--json") == by_flags


def test_an_empty_text_carries_no_watermark(run, folder):
    code, output, _ = run("--model-id", folder, text=b"")
    assert (code, "z = 0.00" in output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "text", "why"),
    [
        (["--watermark-gamma", "3"], b"a", "--watermark-gamma"),
        (["no-such-file"], b"a", "cannot read no-such-file: No such file"),
        ([], b"\xff\xfe", "standard input is not UTF-8: byte 0"),
        (["--model-id", "./nowhere"], b"a", "no such folder"),
    ],
)
def test_what_cannot_be_judged_ends_with_two_and_a_line_that_says_why(run, folder, arguments, text, why):
    code, output, errors = run("--model-id", folder, *arguments, text=text)
    assert (code, output) == (2, "")
    assert why in errors
    assert errors.count("\n") == 1


def test_of_a_hub_model_only_the_tokenizer_is_fetched(folder, tmp_path):
    with serve_hub() as hub:
        hub.files["org/model"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.files["org/model"] |= {"config.json": b"{}", "model.safetensors": b"0" * 1000}
        done = subprocess.run(
            [Path(sys.executable).with_name("textgen-server"), "detect-watermark", "--model-id", "org/model", "--json"],
            input=TEXT,
            capture_output=True,
            text=True,
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"},
            timeout=60,
        )
        assert done.returncode == 1, done.stderr
        assert json.loads(done.stdout)["tokens"] > 10
        assert not any("safetensors" in request for request in hub.requests)
