"""`--mock-engine`: everything but the model is real, so that the front can be measured alone."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from statistics import median

import httpx
import pytest
from running import running, wait_for

from textgen_server.mock_engine import TEXT

TOKENS_PER_SECOND = 50
FLAGS = ("--mock-engine", "--mock-engine-tokens-per-second", str(TOKENS_PER_SECOND))


@pytest.fixture(scope="module")
def mock(smollm2_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mock")
    for path in smollm2_folder.glob("*.json"):  # no weights
        shutil.copy(path, folder)
    with running(folder / "log", "--model-id", str(folder), *FLAGS) as it:
        yield it


async def arrivals(client: httpx.AsyncClient, tokens: int) -> list[float]:
    """When each event of a stream came, in seconds."""
    body = {"inputs": "Anything.", "parameters": {"max_new_tokens": tokens}}
    times = []
    async with client.stream("POST", "/generate_stream", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                times.append(time.monotonic())
                assert json.loads(line[5:])["token"]["text"] is not None
    return times


def test_it_says_what_it_is(mock):
    info = httpx.get(f"{mock.url}/info").json()
    assert (info["model_device_type"], info["model_dtype"]) == ("mock", "mock")
    assert info["max_total_tokens"] == 8192


def test_every_api_answers_with_its_text(mock):
    assert TEXT.startswith(mock.generate("What?", max_new_tokens=30).json()["generated_text"])
    body = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 30}
    reply = httpx.post(f"{mock.url}/v1/chat/completions", json=body).json()
    assert TEXT.startswith(reply["choices"][0]["message"]["content"])
    assert reply["usage"]["completion_tokens"] == 30


def test_the_text_begins_anew_until_the_limit(mock):
    text = mock.generate("What?", max_new_tokens=120).json()["generated_text"]
    assert text.startswith(TEXT)
    assert TEXT.startswith(text.removeprefix(TEXT))
    assert len(text) > len(TEXT)


def test_the_engine_runs_without_torch(mock):
    (engine,) = mock.ranks()
    assert "torch" not in Path(f"/proc/{engine}/maps").read_text()


async def test_each_of_16_streams_gets_the_set_rate(mock):
    async with httpx.AsyncClient(base_url=mock.url, timeout=60) as client:
        streams = await asyncio.gather(*(arrivals(client, 25) for _ in range(16)))
    assert all(len(times) == 25 for times in streams)
    # Never faster than that; on a busy machine tokens may come late, and several at once.
    gap = median((times[-1] - times[0]) / (len(times) - 1) for times in streams)
    assert gap > 0.9 / TOKENS_PER_SECOND


async def test_a_client_that_leaves_frees_its_place_and_its_blocks(mock):
    async with httpx.AsyncClient(base_url=mock.url, timeout=60) as client:
        body = {"inputs": "Anything.", "parameters": {"max_new_tokens": 4000}}
        async with client.stream("POST", "/generate_stream", json=body) as reply:
            await anext(reply.aiter_lines())
            assert mock.metric("tgi_batch_current_size") == 1
    wait_for(lambda: mock.metric("tgi_batch_current_size") == 0, "the request's end")
    assert mock.metric("textgen_kv_cache_usage_ratio") == 0
