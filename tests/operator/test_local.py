"""The rendered pod as processes of this machine."""

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operator_samples import service
from ports import free_port

from textgen_operator import local
from textgen_operator.local import LocalError, Machine, Process, run, to_process
from textgen_operator.render import Defaults, render
from textgen_operator.resource import Gpu

CALLER = {"PATH": "/bin", "HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "1", "QUANTIZE": "gptq", "PORT": "1"}
EXECUTABLE = Path("/venv/bin/textgen-server")
CACHE = Path("/home/me/.cache/textgen")

FAKE_SERVER = """\
import http.server, os, signal, socketserver, subprocess, sys, time
mode, port = os.environ["MODE"], int(sys.argv[sys.argv.index("--port") + 1])
if mode == "dies":
    print("no such model", file=sys.stderr)
    sys.exit(3)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if mode == "loads" else 200)
        self.end_headers()
    def log_message(self, *args): pass
def end(*_):
    if mode == "stubborn":
        return
    open(os.environ["CHILD"] + ".drained", "w").write("1")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with open(os.environ["CHILD"] + ".unfinished", "w") as file:
    file.write(str(child.pid))
os.rename(file.name, os.environ["CHILD"])
socketserver.TCPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def process_of(machine: Machine | None = None, **spec: Any) -> Process:
    statefulset = render(service(**spec), Defaults())[-1]
    return to_process(statefulset, machine or Machine(CALLER, EXECUTABLE, CACHE))


# --- translation ------------------------------------------------------------------------------------------------------


def test_the_arguments_are_the_pods_but_for_what_the_machine_lacks() -> None:
    spec = {"gpu": {"count": 0}, "quantize": "bitsandbytes", "extraArgs": ["--json-output", "true"]}
    (container,) = render(service(**spec), Defaults())[-1]["spec"]["template"]["spec"]["containers"]
    here = process_of(**spec).command
    assert here[0] == str(EXECUTABLE)
    there = container["args"]
    assert here[1 : len(there) + 1] == [str(CACHE) if arg == "/data" else arg for arg in there]
    assert here[len(there) + 1 :] == ["--hostname", "127.0.0.1"]


def test_the_port_is_replaced_in_its_place() -> None:
    command = process_of(Machine(CALLER, EXECUTABLE, CACHE, port=9000)).command
    assert command.count("--port") == 1
    assert command[command.index("--port") + 1] == "9000"


def test_a_model_in_the_cache_moves_with_it_and_another_path_does_not() -> None:
    assert f"{CACHE}/llama.gguf" in process_of(model="/data/llama.gguf").command
    assert "/database/llama" in process_of(model="/database/llama").command


def test_a_folder_of_the_node_is_a_folder_of_this_machine() -> None:
    command = process_of(model="/data/llama", cache={"type": "HostPath", "path": "/srv/models"}).command
    assert "/srv/models/llama" in command
    assert command[command.index("--huggingface-hub-cache") + 1] == "/srv/models"


def test_the_environment_is_the_pods_over_the_callers_without_server_options() -> None:
    env = process_of(env=[{"name": "PATH", "value": "/opt"}], huggingFace={"offline": True}).env
    assert env == {"PATH": "/opt", "HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "1", "HF_HUB_OFFLINE": "1"}


def test_nothing_hides_the_gpus_of_this_machine() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in process_of(gpu={"count": 0}).env
    assert "--device" not in process_of(gpu={"count": 0}).command


def test_a_secret_comes_from_the_callers_environment() -> None:
    hub = {"tokenSecretRef": {"name": "hf"}}
    machine = Machine(CALLER | {"HF_TOKEN": "hf_x"}, EXECUTABLE, CACHE)
    assert process_of(machine, huggingFace=hub).env["HF_TOKEN"] == "hf_x"
    with pytest.raises(LocalError, match=r"HF_TOKEN comes from key 'token' of Secret 'hf' .*: export HF_TOKEN="):
        process_of(huggingFace=hub)


def test_files_of_secrets_are_those_that_the_caller_names() -> None:
    spec = {"auth": {"apiKeySecretRef": {"name": "keys"}}, "tls": {"secretName": "cert"}}
    files = {"API_KEY_FILE": "/k", "SSL_CERTFILE": "/c", "SSL_KEYFILE": "/p"}
    process = process_of(Machine(CALLER | files, EXECUTABLE, CACHE), **spec)
    options = dict(zip(process.command[1::2], process.command[2::2], strict=True))
    assert (options["--api-key-file"], options["--ssl-certfile"], options["--ssl-keyfile"]) == ("/k", "/c", "/p")
    assert process.url == "https://127.0.0.1:8080"
    with pytest.raises(LocalError, match=r"--api-key-file is in Secret 'keys' .*: export API_KEY_FILE="):
        process_of(**spec)


def test_a_volume_claim_is_in_no_machine() -> None:
    with pytest.raises(LocalError, match="volume claim weights is in a cluster: here, name a local folder"):
        process_of(model="pvc://weights/llama")


def test_a_process_mounts_no_image() -> None:
    with pytest.raises(LocalError, match="name a local folder instead of oci://org/llama:1"):
        process_of(model="oci://org/llama:1#models")


def test_what_is_optional_may_be_missing() -> None:
    source = {"configMapKeyRef": {"name": "proxy", "key": "url", "optional": True}}
    assert "PROXY" not in process_of(env=[{"name": "PROXY", "valueFrom": source}]).env


def test_references_to_variables_are_expanded_as_by_kubelet() -> None:
    spec = {
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)2"},
            {"name": "C", "value": "$$(A) $(UNKNOWN)"},
        ],
        "extraArgs": ["--log-level=$(B)"],
    }
    env = process_of(**spec).env
    assert (env["B"], env["C"]) == ("12", "$(A) $(UNKNOWN)")
    assert "--log-level=12" in process_of(**spec).command


def test_times_are_the_pods() -> None:
    process = process_of(startup={"timeoutSeconds": 60}, drain={"preStopSeconds": 1, "timeoutSeconds": 2})
    assert (process.startup_seconds, process.grace_seconds) == (60, 18)


@pytest.mark.parametrize(
    ("hostname", "url"),
    [("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"), ("10.1.1.1", "http://10.1.1.1:8080")],
)
def test_what_listens_everywhere_is_reached_on_loopback(hostname: str, url: str) -> None:
    assert process_of(Machine(CALLER, EXECUTABLE, CACHE, hostname=hostname)).url == url


@pytest.mark.parametrize(("count", "found", "words"), [(1, 0, "no GPU: set gpu.count: 0"), (4, 2, "2 GPUs: set gpu.c")])
def test_gpus_that_are_not_there_are_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, count: int, found: int, words: str
) -> None:
    monkeypatch.setattr(local, "_count_gpus", lambda: found)
    with pytest.raises(LocalError, match=words):
        local.require_gpus(Gpu(count=count))
    local.require_gpus(Gpu(count=found))


def test_the_servers_program_is_the_one_of_this_environment() -> None:
    assert local.find_executable({}) == Path(sys.executable).parent / local.ENTRYPOINT


def test_else_it_is_looked_for_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(LocalError, match="textgen-server is not installed"):
        local.find_executable({"PATH": str(tmp_path)})
    program = tmp_path / local.ENTRYPOINT
    program.touch(stat.S_IRWXU)
    assert local.find_executable({"PATH": str(tmp_path)}) == program


def test_a_port_in_use_is_refused_with_the_cure() -> None:
    async def listen() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(LocalError, match=rf"cannot listen on 127.0.0.1:{port} .*choose another --port"):
                local.require_free_port("127.0.0.1", port)
        local.require_free_port("127.0.0.1", port)

    asyncio.run(listen())


# --- life of the process ----------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Process]:
    """A server of the given mode: serves, dies, loads (for ever) or stubborn (ignores SIGTERM)."""
    script = tmp_path / "server.py"
    script.write_text(FAKE_SERVER)

    port = free_port()

    def make(mode: str, startup: float = 60, grace: float = 60) -> Process:
        env = {"MODE": mode, "CHILD": str(tmp_path / "child")}
        command = [sys.executable, str(script), "--port", str(port)]
        return Process(command, env, f"http://127.0.0.1:{port}", "/health", startup, grace)

    return make


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - what is awaited happens in other processes
            await asyncio.sleep(0.02)


def child_is_gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "child").read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_when_asked_to_end_it_ends_the_server_and_all_its_processes(
    fake: Callable[..., Process], tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    running = asyncio.create_task(run(fake("serves"), "try me"))
    output = ""
    async with asyncio.timeout(60):
        while "try me" not in output:
            output += capfd.readouterr().out
            await asyncio.sleep(0.02)
    assert output == "try me\n"
    os.kill(os.getpid(), number)
    assert await running == 0
    assert (tmp_path / "child.drained").exists()
    await until(lambda: child_is_gone(tmp_path))


async def test_it_can_be_ended_while_the_model_loads(fake: Callable[..., Process], tmp_path: Path) -> None:
    running = asyncio.create_task(run(fake("loads"), "try me"))
    await until((tmp_path / "child").exists)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_when_the_server_dies_so_does_it_with_its_last_words(
    fake: Callable[..., Process], capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run(fake("dies"), "try me") == 3
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.index("no such model") < captured.err.index("exited with code 3")


async def test_a_server_that_never_is_ready_is_given_up(
    fake: Callable[..., Process], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await run(fake("loads", startup=0.5), "try me") == 1
    assert "startup.timeoutSeconds" in capfd.readouterr().err


async def test_a_server_that_does_not_end_is_killed_after_its_grace(
    fake: Callable[..., Process], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    running = asyncio.create_task(run(fake("stubborn", grace=0.3), "try me"))
    await until((tmp_path / "child").exists)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 1
    assert "killed" in capfd.readouterr().err
    await until(lambda: child_is_gone(tmp_path))


async def test_a_second_ctrl_c_cuts_the_grace_short(fake: Callable[..., Process], tmp_path: Path) -> None:
    running = asyncio.create_task(run(fake("stubborn", grace=60), "try me"))
    await until((tmp_path / "child").exists)
    start = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 1
    assert time.monotonic() - start < 50
