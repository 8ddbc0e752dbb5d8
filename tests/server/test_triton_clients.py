"""Triton's own client library, unmodified, against a running server."""

import json
import subprocess
from pathlib import Path

import pytest
from clients.environments import FOLDER, client_python

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def results(server):
    program: list[str | Path] = [client_python("triton"), FOLDER / "triton_client.py"]
    addresses = [f"127.0.0.1:{server.port}", server.grpc_address]
    done = subprocess.run([*program, *addresses, "smollm2", PROMPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def text(server) -> str:
    return server.generate(PROMPT, max_new_tokens=8).json()["generated_text"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_clients_get_their_text(results, text, protocol):
    told = results[protocol]
    assert told["health"] == [True, True, True]
    assert (told["text"], told["finish_reason"], told["tokens"]) == (text, "length", 8)
    assert "`other` does not exist" in told["error"]


def test_a_stream_adds_up_to_the_text(results, text):
    assert "".join(results["stream"]["texts"]) == text
    assert len(results["stream"]["texts"]) > 2
    assert "`other` does not exist" in results["stream"]["error"]
