"""The kserve package's own inference clients, unmodified, against a running server."""

import json
import subprocess
from pathlib import Path

import pytest
from clients.environments import FOLDER, client_python

PROMPTS = ["The capital of France is", "Two plus two is"]


@pytest.fixture(scope="module")
def results(server):
    program: list[str | Path] = [client_python("kserve"), FOLDER / "kserve_client.py"]
    done = subprocess.run([*program, server.url, server.grpc_address, "smollm2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def texts(server) -> list[str]:
    return [server.generate(prompt, max_new_tokens=8).json()["generated_text"] for prompt in PROMPTS]


def test_the_clients_find_server_and_model_ready(results):
    for protocol in ("v2", "grpc"):
        told = results[protocol]
        assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    assert (results["v1"]["live"], results["v1"]["model_ready"]) == (True, True)
    assert results["v2"]["other_ready"] is False


@pytest.mark.parametrize("protocol", ["v2", "grpc"])
def test_the_clients_get_their_texts_as_lists_and_as_numpy(results, texts, protocol):
    for form, shape in (("lists", [2]), ("numpy", [2, 1])):
        told = results[protocol][form]
        assert told == {"id": form, "model": "smollm2", "texts": texts, "shape": shape, "tokens": [8, 8]}


def test_predict_gives_the_same_texts(results, texts):
    assert results["v1"]["predict"] == {"predictions": texts}


def test_the_clients_tell_what_is_wrong(results):
    message = "Input validation error: `top_k` must be strictly positive"
    assert results["grpc"]["error"] == ["INVALID_ARGUMENT", message]
    assert message in results["v2"]["error"]
    assert "400 Bad Request" in results["v2"]["error"]
