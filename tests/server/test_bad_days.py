"""What happens when something dies, hangs, floods or leaves: a clear outcome at once, and the server serves on."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from running import Server, running, wait_for

LONG = {"max_new_tokens": 3000}


@pytest.fixture(scope="module")
def victim(model_flags, tmp_path_factory):
    """A server whose engine may be hurt: it gives up on a stuck engine after 3 s."""
    flags = (*model_flags, "--stuck-engine-timeout", "3")
    with running(tmp_path_factory.mktemp("victim") / "log", *flags) as server:
        yield server


def events_until_the_end(server: Server, after_two) -> list[dict]:
    """Events of a long stream; `after_two` is called when two have come."""
    events = []
    body = {"inputs": "Count to one million: 1, 2, 3,", "parameters": LONG}
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            if line.startswith("data:"):
                events.append(json.loads(line[5:]))
                if len(events) == 2:
                    after_two()
    return events


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_a_lost_engine_ends_its_streams_with_an_error_and_comes_back(victim: Server, number: int):
    [engine] = victim.ranks()
    hurt_at = []

    def hurt() -> None:
        os.kill(engine, number)
        hurt_at.append(time.monotonic())

    events = events_until_the_end(victim, hurt)
    assert time.monotonic() - hurt_at[0] < 60
    assert set(events[-1]) == {"error", "error_type"}
    assert victim.health() == 503
    assert victim.generate("Hello", max_new_tokens=1).status_code == 503
    wait_for(lambda: victim.health() == 200, "recovery")
    assert victim.generate("Hello", max_new_tokens=3).status_code == 200
    assert victim.ranks() != [engine]
    assert victim.process.poll() is None


def test_a_client_that_leaves_frees_its_blocks(server: Server):
    body = {"inputs": "Count to one million: 1, 2, 3,", "parameters": LONG}
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=60) as reply:
        lines = reply.iter_lines()  # kept, because httpx closes the connection with it
        next(lines)
        assert server.metric("tgi_batch_current_size") == 1
    wait_for(lambda: server.metric("tgi_batch_current_size") == 0, "the request's end")
    assert server.metric("textgen_kv_cache_usage_ratio") == 0


def test_a_client_that_leaves_without_a_stream_frees_its_blocks_too(server: Server):
    body = {"inputs": "Count to one million: 1, 2, 3,", "parameters": LONG}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/generate", json=body, timeout=0.5)
    wait_for(lambda: server.metric("tgi_batch_current_size") == 0, "the request's end")


async def test_300_requests_at_once_are_served_or_refused_at_once(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags, "--max-concurrent-requests", "40") as server:
        async with httpx.AsyncClient(timeout=240, limits=httpx.Limits(max_connections=300)) as client:
            body = {"inputs": "Hello, my name is", "parameters": {"max_new_tokens": 4}}
            replies = await asyncio.gather(*(client.post(f"{server.url}/generate", json=body) for _ in range(300)))
        counts = Counter(reply.status_code for reply in replies)
        assert set(counts) == {200, 429}
        assert counts[200] >= 40
        for reply in replies:
            if reply.status_code == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()["error_type"] == "overloaded"
        assert len({reply.json()["generated_text"] for reply in replies if reply.status_code == 200}) == 1
        assert server.generate("Hello", max_new_tokens=1).status_code == 200


async def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 100, "details": True}}
            running_request = asyncio.create_task(client.post("/generate", json=body))
            await asyncio.to_thread(wait_for, lambda: server.metric("tgi_batch_current_size") == 1, "the request runs")
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(wait_for, lambda: server.health() == 503, "the drain")
            assert (await client.post("/generate", json=body)).status_code == 503
            reply = await running_request
        assert reply.status_code == 200
        assert reply.json()["details"]["generated_tokens"] == 100
        assert server.process.wait(60) == 0


def test_the_grace_period_bounds_the_drain(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags, "-g", "1") as server:
        body = {"inputs": "Count to one million: 1, 2, 3,", "parameters": LONG}
        with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line.startswith("data:")][-1]
        assert "error" in json.loads(last[5:])
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 60


def test_no_rank_outlives_a_killed_launcher(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags) as server:
        [engine] = server.ranks()
        server.stop(signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the engine's end")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--model-id", "/no/such/folder"], "/no/such/folder"),
        (["--max-total-tokens", "1"], "--max-total-tokens"),
        (["--max-total-tokens", "9000"], "9000"),
        (["--num-shard", "10"], "--num-shard"),
    ],
    ids=["no folder", "bad flag", "beyond the model", "too many shards"],
)
def test_a_server_that_cannot_start_says_why_and_fails(model_flags, tmp_path, flags, reason):
    base = () if "--model-id" in flags else model_flags
    server = Server(tmp_path / "log", *base, *flags)
    assert server.process.wait(60) == 1
    lines = server.log.read_text().strip().splitlines()
    assert any(reason in line for line in lines[-3:])
    assert "Traceback" not in server.log.read_text()


def test_a_busy_port_is_known_before_the_model_is_loaded(server: Server, model_flags, tmp_path):
    log = tmp_path / "log"
    second = subprocess.run(
        [*server.process.args[:4], str(server.port), *model_flags], stderr=subprocess.PIPE, text=True, timeout=30
    )
    assert second.returncode == 1
    assert "--port" in second.stderr
    assert "loaded" not in second.stderr
    assert not log.exists()


def test_two_shards_write_the_same_text_as_one(server: Server, model_flags, tmp_path):
    expected = server.generate("The capital of France is", max_new_tokens=10).json()["generated_text"]
    with running(tmp_path / "log", *model_flags, "--num-shard", "2") as sharded:
        assert len(sharded.ranks()) == 2
        reply = sharded.generate("The capital of France is", max_new_tokens=10)
        assert reply.json()["generated_text"] == expected
        os.kill(sharded.ranks()[1], signal.SIGKILL)
        wait_for(lambda: sharded.health() == 503, "the loss of a rank")
        wait_for(lambda: sharded.health() == 200, "recovery")
        reply = sharded.generate("The capital of France is", max_new_tokens=10)
        assert reply.json()["generated_text"] == expected
