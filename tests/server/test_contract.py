"""schemathesis reads the API's description and asks thousands of questions, right ones and wrong ones. Nothing fails or
hangs, and every reply is one that the description has. The engine is the mock one; all that is before it is real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import running

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
KEY = "secret"
SECONDS = 300  # it takes 20 on two idle cores


@pytest.mark.timeout(SECONDS + 100)
def test_every_reply_is_as_described(smollm2_folder, tmp_path) -> None:
    flags = ("--model-id", str(smollm2_folder), "--served-model-name", "smollm2", "--api-key", KEY)
    mock = ("--mock-engine", "true", "--mock-engine-tokens-per-second", "20000", "--max-total-tokens", "128")
    with running(tmp_path / "log", *flags, *mock) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "--no-color", "run"]
        asked = subprocess.run(
            [*command, f"{server.url}/api-doc/openapi.json"],
            env={**os.environ, "TEXTGEN_KEY": KEY},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert server.health() == 200
        assert server.metric("tgi_batch_current_size") == server.metric("tgi_queue_size") == 0
    assert "Traceback" not in server.log.read_text()
