"""`textgen-server download-weights`, as an init container runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import COMMIT, serve_hub
from fake_s3 import serve_s3
from safetensors.torch import save

WEIGHTS = save({"a": torch.zeros(2)})
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b'{"a": 1}'}


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AWS_"))}
    return subprocess.run(
        [Path(sys.executable).with_name("textgen-server"), "download-weights", *args],
        env={**kept, "NO_PROXY": "127.0.0.1", **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_it_fetches_what_the_servers_environment_names_and_is_cheap_to_repeat(tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.files["org/model"] = MODEL
        hub.files["org/tuned"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
        env = {
            "HF_ENDPOINT": hub.url, "HUGGINGFACE_HUB_CACHE": str(tmp_path), "MODEL_ID": "org/model",
            "LORA_ADAPTERS": "tuned=org/tuned", "JSON_OUTPUT": "true",
        }  # fmt: skip
        first = run(**env)
        again = run(**env)
        fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout == again.stdout == f"{tmp_path}/models--org--model/snapshots/{COMMIT}\n"
    assert len(fetched) == len(set(fetched)) == 5
    lines = [json.loads(line) for line in first.stderr.splitlines()]
    assert any(line["message"].startswith("adapter tuned in ") for line in lines)
    progress = [line["progress"] for line in lines if "progress" in line]
    assert progress[-1].keys() == {
        "stage", "what", "done_bytes", "total_bytes", "bytes_per_second", "seconds_left",
    }  # fmt: skip
    (located,) = [line for line in progress if line["stage"] == "located"]
    assert (located["what"], located["revision"], located["total_bytes"]) == ("org/model", COMMIT, len(WEIGHTS))
    assert {line["stage"] for line in progress} == {"downloading", "located"}


def test_a_bucket_of_s3_is_fetched_once(tmp_path: Path) -> None:
    with serve_s3() as store:
        store.objects = {f"bucket/models/tiny/{name}": content for name, content in MODEL.items()}
        env = {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
        flags = ["s3://bucket/models/tiny", "--huggingface-hub-cache", str(tmp_path)]
        done = run(*flags, **env)
        missing = run("s3://bucket/models/huge", **env)
        store.denied = True
        denied = run(*flags, **env)

    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {name: (folder / name).read_bytes() for name in MODEL} == MODEL
    assert "downloading s3://bucket/models/tiny: 0.00 of 0.00 GB" in done.stderr
    assert missing.returncode == denied.returncode == 1
    assert missing.stderr.splitlines()[-1] == ("error: s3://bucket/models/huge does not exist: check bucket and path")
    assert "may not be read with these credentials" in denied.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["/no/such/model"], 1, "error: no such folder or file: /no/such/model (model_id '/no/such/model')"),
        (["--log-level", "loud"], 2, "error: --log-level: "),
        (["--no-such-flag"], 2, "textgen-server download-weights: error: unrecognized arguments: --no-such-flag"),
    ],
)
def test_what_is_wrong_is_the_last_line_and_the_exit_code(args: list[str], code: int, complaint: str) -> None:
    done = run(*args)

    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith(complaint)
    assert done.stdout == ""
