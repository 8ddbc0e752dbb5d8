"""Streams over a real socket: clients that leave, that are slow, and engines that are silent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from front import Front, listening, metric, until

from textgen_server.api import streaming

GENERATE = ("/generate_stream", {"inputs": "hello", "parameters": {"max_new_tokens": 200}})
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "stream": True})
COMPLETIONS = ("/v1/completions", {"prompt": ["hello", "fox"], "stream": True})


@contextlib.asynccontextmanager
async def connected(front: Front) -> AsyncIterator[httpx.AsyncClient]:
    async with listening(front) as address, httpx.AsyncClient(base_url=address, timeout=20) as client:
        yield client


async def read_events(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(("path", "body"), [GENERATE, CHAT, COMPLETIONS])
async def test_a_client_that_leaves_a_stream_aborts_its_request(
    make_front: Callable[..., Front], path: str, body: dict[str, Any]
) -> None:
    front = make_front("the fox " * 60)
    front.engine.pace = 0.005
    async with connected(front) as client:
        async with client.stream("POST", path, json=body) as response:
            await anext(read_events(response))
            running = front.engine.running
            assert running == front.context.in_flight > 0
        await until(lambda: front.engine.running == 0)
        assert front.engine.aborted == running
        await until(lambda: front.context.in_flight == 0)
    assert await metric(front, 'tgi_request_failure{err="dropped"}') == running


@pytest.mark.parametrize(("path", "body"), [GENERATE, CHAT, ("/generate", GENERATE[1])])
async def test_a_client_that_leaves_before_the_first_token_aborts_its_request(
    front: Front, path: str, body: dict[str, Any]
) -> None:
    front.engine.hang_after = 0
    async with connected(front) as client:
        asking = asyncio.create_task(client.post(path, json=body))
        await until(lambda: front.engine.running == 1)
        asking.cancel()
        await until(lambda: front.engine.running == 0)
        await until(lambda: front.context.in_flight == 0)
    assert front.engine.aborted == 1


async def test_a_client_that_leaves_a_single_reply_aborts_its_request(front: Front) -> None:
    front.engine.hang_after = 3
    async with connected(front) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json={"prompt": ["a", "b"]}))
        await until(lambda: front.engine.running == 2)
        asking.cancel()
        await until(lambda: front.engine.running == 0)
    assert front.engine.aborted == 2


async def test_tokens_arrive_as_they_are_generated(make_front: Callable[..., Front]) -> None:
    front = make_front("the fox " * 10)
    front.engine.hang_after = 5
    async with connected(front) as client, client.stream("POST", GENERATE[0], json=GENERATE[1]) as response:
        seen = 0
        async for event in read_events(response):
            seen += 1
            assert event["index"] == seen
            if seen == 5:
                break
        assert front.engine.running == 1


async def test_a_client_that_reads_nothing_holds_up_nobody_and_is_given_up(make_front: Callable[..., Front]) -> None:
    tokens = 200_000  # 20 MB of events
    front = make_front("")
    front.engine.script = [100] * tokens
    front.engine.info.max_total_tokens = 2 * tokens
    async with listening(front) as address:
        lazy = await _ask_and_never_read(address, tokens)
        await until(lambda: front.engine.delivered > 1000)
        async with httpx.AsyncClient(base_url=address) as client:
            for _ in range(5):
                response = await client.post("/generate", json={"inputs": "hello", "parameters": {"max_new_tokens": 5}})
                assert response.status_code == 200
            await until(lambda: front.engine.aborted == 1)
            assert front.engine.delivered < tokens
            assert (await client.get("/health")).status_code == 200
        lazy.transport.abort()
    assert await metric(front, 'tgi_request_failure{err="dropped"}') == 1


async def test_a_client_that_reads_late_misses_nothing(make_front: Callable[..., Front]) -> None:
    tokens = 60_000  # 6 MB of events: more than the network holds
    front = make_front("")
    front.engine.script = [100] * tokens
    front.engine.info.max_total_tokens = 2 * tokens
    async with connected(front) as client:
        body = {"inputs": "hello", "parameters": {"max_new_tokens": tokens}}
        async with client.stream("POST", "/generate_stream", json=body) as response:
            await until(lambda: front.engine.delivered == tokens)
            indices = [event["index"] async for event in read_events(response)]
    assert indices == list(range(1, tokens + 1))


async def _ask_and_never_read(address: str, tokens: int) -> asyncio.StreamWriter:
    host, port = address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": tokens}}).encode()
    head = "POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    writer.write(head.format(len(body)).encode() + body)
    return writer


async def test_silence_is_bridged_by_comments(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    front.engine.hang_after = 2
    async with connected(front) as client, client.stream("POST", GENERATE[0], json=GENERATE[1]) as response:
        text = ""
        async for chunk in response.aiter_text():
            text += chunk
            if text.count(":\n\n") >= 3:
                break
    assert text.count("data: ") == 2
    assert text.endswith("\n\n:\n\n:\n\n:\n\n")


async def test_a_queued_stream_gets_its_head_before_proxies_lose_patience(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    front.engine.hang_after = 0
    async with connected(front) as client, client.stream("POST", GENERATE[0], json=GENERATE[1]) as response:
        assert response.status_code == 200
        assert await anext(response.aiter_text()) == ":\n\n"


async def test_many_streams_all_finish_with_their_own_text(make_front: Callable[..., Front]) -> None:
    front = make_front("the quick brown fox jumps over the lazy dog")
    front.engine.pace = 0.001

    async def stream(client: httpx.AsyncClient, length: int) -> str:
        body = {"inputs": "hello", "parameters": {"max_new_tokens": length}}
        async with client.stream("POST", "/generate_stream", json=body) as response:
            events = [event async for event in read_events(response)]
        assert len(events) == length
        return str(events[-1]["generated_text"])

    async with connected(front) as client:
        lengths = [3 + index % 7 for index in range(32)]
        texts = await asyncio.gather(*(stream(client, length) for length in lengths))
    script = front.engine.script
    assert texts == [front.tokenizer.decode(script[:length]) for length in lengths]
