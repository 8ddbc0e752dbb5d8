"""A server without a network: it starts and answers from what is on this machine, and sends no packet."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import COMMIT, serve_hub
from shapes import SHAPES, save_checkpoint
from tiny_tokenizer import write_tokenizer

PROGRAM = Path(sys.executable).with_name("textgen-server")

# For a namespace that has no interface but loopback. The kernel counts what is sent anywhere else: it has no route.
DRIVER = """
import json, pathlib, subprocess, sys, time, urllib.request
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
log = open(sys.argv[1], "w")
server = subprocess.Popen([*sys.argv[2:], "--hostname", "127.0.0.1", "--port", "8080"], stdout=log, stderr=log)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
body = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 3}}).encode()
request = urllib.request.Request("http://127.0.0.1:8080/generate", body, {"Content-Type": "application/json"})
for _ in range(600):
    try:
        print(opener.open(request, timeout=60).read().decode())
        break
    except OSError:
        if server.poll() is not None:
            break
        time.sleep(0.2)
server.terminate()
code = server.wait(60)
names, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Ip:")]
print("attempts to leave the machine:", values[names.index("OutNoRoutes")])
sys.exit(code)
"""


def can_cut_the_network() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "-rn", "ip", "link"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_cut_the_network(), reason="UNSHARE WITH A NETWORK OF ITS OWN IS NOT ALLOWED")


def serve_alone(log: Path, *flags: str, **env: str) -> str:
    """The answer of a server whose network is cut."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", DRIVER, str(log), str(PROGRAM), *flags],
        env=kept | env, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + log.read_text()
    assert "attempts to leave the machine: 0\n" in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path_factory.mktemp("tiny"))
    write_tokenizer(folder, 2)
    return folder


def test_a_local_folder_is_served_without_a_network(folder: Path, tmp_path: Path) -> None:
    answer = serve_alone(tmp_path / "log", "--model-id", str(folder), HF_HOME=str(tmp_path / "empty"))

    assert "generated_text" in answer


def test_a_warm_cache_is_served_without_a_network(folder: Path, tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    with serve_hub() as hub:
        hub.files["org/model"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        subprocess.run(
            [PROGRAM, "download-weights", "org/model"], env={**os.environ, **env, "HF_ENDPOINT": hub.url}, check=True
        )

    answer = serve_alone(tmp_path / "log", "--model-id", "org/model", HF_HUB_OFFLINE="1", **env)

    assert "generated_text" in answer
    assert COMMIT in (tmp_path / "log").read_text()
