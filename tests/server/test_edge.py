"""Keys, TLS, limits and traces of a server as it is run. The engine is the mock one: this is not about the model."""

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme
from otlp_collector import attributes, collecting
from running import Server, running, wait_for

NAME = "127.0.0.1"
GENERATE = {"inputs": "Anything.", "parameters": {"max_new_tokens": 5}}


def issue(authority: trustme.CA, folder: Path) -> None:
    """Write a certificate for NAME and its key."""
    leaf = authority.issue_cert(NAME)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_keys_certificates_logs_and_traces_together(model_flags, tmp_path):
    old, new = trustme.CA(), trustme.CA()
    issue(old, tmp_path)
    (tmp_path / "keys").write_text("old-key\n")
    flags = (
        *("--mock-engine", "--mock-engine-tokens-per-second", "200", "--json-output"),
        *("--ssl-certfile", tmp_path / "tls.crt", "--ssl-keyfile", tmp_path / "tls.key"),
        *("--api-key-file", tmp_path / "keys"),
    )
    with collecting() as collector:
        traces = ("--otlp-endpoint", collector.endpoint)
        with running(tmp_path / "log", *model_flags, *flags, *traces, tls=trusting(old)) as server:

            def ask(key: str, authority: trustme.CA, **headers: str) -> httpx.Response:
                headers |= {"authorization": f"Bearer {key}"}
                address = f"{server.url}/generate_stream"
                return httpx.post(address, json=GENERATE, headers=headers, verify=trusting(authority))

            assert ask("new-key", old).status_code == 401
            assert ask("old-key", old, **{"x-request-id": "first"}).text.count("data:") == 5
            (tmp_path / "keys").write_text("new-key\n")
            issue(new, tmp_path)
            wait_for(lambda: _works(lambda: ask("new-key", new)), "rotation of keys and certificate")
            assert ask("old-key", new).status_code == 401
            assert server.stop() == 0
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        (first,) = [line for line in lines if line.get("request_id") == "first"]
        spans = {attributes(span).get("textgen.request_id"): span for span in collector.wait_for(1)}
    assert (first["route"], first["status"], first["generated_tokens"]) == ("/generate_stream", 200, 5)
    assert first["trace_id"] == spans["first"].trace_id.hex()
    assert collector.resources[0]["service.name"] == "textgen"
    assert "old-key" not in json.dumps(lines)


def _works(call) -> bool:
    try:
        return call().status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def strict(model_flags, tmp_path_factory) -> Iterator[Server]:
    """One that has little patience, and one place in its batch."""
    flags = (
        *("--mock-engine", "--mock-engine-tokens-per-second", "50", "--max-batch-size", "1"),
        *("--queue-timeout", "0.5", "--request-timeout", "4", "--receive-timeout", "1", "--header-limit", "4096"),
    )
    with running(tmp_path_factory.mktemp("strict") / "log", *model_flags, *flags) as it:
        yield it


def test_a_request_that_the_engine_does_not_begin_in_time_is_429(strict):
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(strict.generate, "Anything.", max_new_tokens=150)
        wait_for(lambda: strict.metric("tgi_batch_current_size") == 1, "the long one runs")
        before = time.monotonic()
        waiting = strict.generate("Anything.", max_new_tokens=5)
        assert time.monotonic() - before > 0.4
        assert waiting.status_code == 429
        assert waiting.json()["error_type"] == "overloaded"
        assert waiting.headers["retry-after"] == "1"
        assert long.result().status_code == 200
    assert strict.generate("Anything.", max_new_tokens=5).status_code == 200


def test_a_request_that_takes_too_long_ends_and_frees_the_engine(strict):
    body = {"inputs": "Anything.", "parameters": {"max_new_tokens": 500}}
    before = time.monotonic()
    events = httpx.post(f"{strict.url}/generate_stream", json=body, timeout=60).text.strip().split("\n\n")
    assert time.monotonic() - before > 3.8
    assert json.loads(events[-1].removeprefix("data: "))["error_type"] == "timeout"
    assert len(events) > 20
    wait_for(lambda: strict.metric("tgi_batch_current_size") == 0, "the engine is free")
    reply = strict.generate("Anything.", max_new_tokens=500)
    assert (reply.status_code, reply.json()["error_type"]) == (504, "timeout")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost:", b"408"),
        (b"POST /generate HTTP/1.1\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{", b"408"),
        (b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n", b"431"),
    ],
)
def test_slow_and_overlong_requests_are_refused(strict, sent, status):
    with socket.create_connection((NAME, strict.port), timeout=5) as client:
        client.sendall(sent)
        reply = b"".join(iter(lambda: client.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert b'"error_type"' in reply


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--api-key-file", "none"], "cannot read none: No such file or directory"),
        (["--ssl-certfile", "none", "--ssl-keyfile", "none"], "cannot read none: No such file or directory"),
    ],
)
def test_what_cannot_be_used_ends_the_start_with_a_sentence(flags, sentence, tmp_path):
    command = [str(Path(sys.executable).with_name("textgen-server")), "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.count("\n") == 1
