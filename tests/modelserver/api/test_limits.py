"""Clients that send too much, too slowly, or nothing, over a real socket; and requests that take too long."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from front import Front, events, listening, metric, until

from textgen_server.errors import Overloaded

MakeFront = Callable[..., Front]
BODY = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 2}}).encode()


class Raw:
    """A connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of the next reply."""
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body) if body else None

    async def closed(self) -> bool:
        """Whether the server closes the connection, without another word."""
        async with asyncio.timeout(60):
            return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def connection(address: str) -> AsyncIterator[Raw]:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def head(path: str = "/generate", length: int = len(BODY), *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def request(tokens: int, path: str = "/generate") -> bytes:
    body = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": tokens}}).encode()
    return head(path, len(body)) + body


# --- heads --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "too_much",
    [
        [head("/generate", len(BODY), "X-Long: " + "x" * 3000)],
        [head("/generate", len(BODY), *(f"X-{number}: y" for number in range(500)))],
        [head("/generate?" + "x" * 3000)],
        [b"POST /generate HTTP/1.1\r\nX-Endless: ", *[b"x" * 400] * 6],
        [b"POST /generate?", *[b"x" * 400] * 6],
    ],
    ids=["a long header", "many headers", "a long address", "a header without end", "an address without end"],
)
async def test_heads_beyond_the_limit_are_431(make_front: MakeFront, too_much: list[bytes]) -> None:
    front = make_front(header_limit=2048)
    async with listening(front) as address, connection(address) as raw:
        for piece in too_much:
            raw.send(piece)
            await asyncio.sleep(0.01)
        status, headers, body = await raw.reply()
        assert await raw.closed()
    assert status == 431
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert body == {"error": "The request's head is larger than 2048 bytes", "error_type": "request_headers_too_large"}
    assert front.engine.requests == []


async def test_heads_within_the_limit_are_fine_however_they_come(make_front: MakeFront) -> None:
    front = make_front(header_limit=2048)
    async with listening(front) as address, connection(address) as raw:
        request = head("/generate", len(BODY), "X-Long: " + "x" * 1800) + BODY
        for start in range(0, len(request), 100):
            raw.send(request[start : start + 100])
            await asyncio.sleep(0)
        assert (await raw.reply())[0] == 200
        raw.send(request)
        assert (await raw.reply())[0] == 200


async def test_bodies_do_not_count_as_heads(make_front: MakeFront) -> None:
    front = make_front(header_limit=2048)
    long = json.dumps({"inputs": "x" * 100, "ignored": "y" * 5000}).encode()
    async with listening(front) as address, connection(address) as raw:
        for _ in range(3):
            raw.send(head(length=len(long)) + long)
        for _ in range(3):
            assert (await raw.reply())[0] == 200


@pytest.mark.parametrize(("path", "shape"), [("/generate", "error_type"), ("/v1/completions", "error")])
async def test_what_is_not_http_is_told_in_json(front: Front, path: str, shape: str) -> None:
    async with listening(front) as address, connection(address) as raw:
        raw.send(f"POST {path} HTTP/1.1\r\nbroken header\r\n\r\n".encode())
        status, _, body = await raw.reply()
        assert status == 400
        assert shape in body
        assert isinstance(body["error"], dict) == (shape == "error")
        assert await raw.closed()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("connection_header", ["Upgrade, HTTP2-Settings", "Upgrade", "keep-alive, Upgrade"])
async def test_offers_of_another_protocol_are_declined(front: Front, pieces: int, connection_header: str) -> None:
    """As Java's HttpClient makes one with each first request, whose body must not be lost for it."""
    offer = (f"Connection: {connection_header}", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAA")
    async with listening(front) as address, connection(address) as raw:
        for _ in range(2):
            raw.send(head("/generate", len(BODY), *offer) + (BODY if pieces == 1 else b""))
            if pieces == 2:
                await asyncio.sleep(0.02)
                raw.send(BODY)
            status, headers, body = await raw.reply()
            assert (status, headers["x-generated-tokens"]) == (200, "2")
            assert body["generated_text"]


async def test_there_are_no_tunnels(front: Front) -> None:
    async with listening(front) as address, connection(address) as raw:
        raw.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert (await raw.reply())[0] == 400
        assert await raw.closed()


# --- slow clients ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sent", "shape"),
    [
        (b"POST /generate HTTP/1.1\r\nHost:", "error_type"),
        (head() + b"{", "error_type"),
        (head("/v1/completions") + b"{", "error"),
    ],
    ids=["in the head", "in the body", "in the body, to OpenAI"],
)
async def test_clients_that_send_drop_by_drop_are_408(make_front: MakeFront, sent: bytes, shape: str) -> None:
    front = make_front(receive_timeout=0.3)
    async with listening(front) as address, connection(address) as raw:
        before = time.monotonic()
        raw.send(sent)
        dripping = asyncio.create_task(_drip(raw))
        status, headers, body = await raw.reply()
        assert await raw.closed()
        assert time.monotonic() - before > 0.25
        dripping.cancel()
    assert (status, headers["connection"]) == (408, "close")
    assert shape in body
    assert front.context.in_flight == 0


async def _drip(raw: Raw) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(0.05)
            raw.send(b" ")


async def test_clients_that_send_nothing_are_left(make_front: MakeFront) -> None:
    front = make_front(receive_timeout=0.2)
    async with listening(front) as address, connection(address) as raw:
        assert await raw.closed()


async def test_a_slow_answer_is_no_slow_request(make_front: MakeFront) -> None:
    front = make_front("the fox " * 10, receive_timeout=1)
    front.engine.pace = 0.25
    async with listening(front) as address, connection(address) as raw:
        for _ in range(2):
            raw.send(request(5))
            assert (await raw.reply())[0] == 200


async def test_a_request_behind_a_slow_answer_has_its_own_time(make_front: MakeFront) -> None:
    front = make_front("the fox " * 10, receive_timeout=1)
    front.engine.pace = 0.2
    async with listening(front) as address, connection(address) as raw:
        raw.send(request(7) + head())
        assert (await raw.reply())[0] == 200
        raw.send(BODY)
        assert (await raw.reply())[0] == 200
        raw.send(head() + BODY + head())
        assert (await raw.reply())[0] == 200
        assert (await raw.reply())[0] == 408


async def test_a_client_that_leaves_is_noticed_also_with_a_request_behind(make_front: MakeFront) -> None:
    front = make_front("the fox " * 60)
    front.engine.pace = 0.005
    async with listening(front) as address:
        async with connection(address) as raw:
            raw.send(request(200) + request(2))
            await until(lambda: front.engine.running == 1)
            await asyncio.sleep(0.05)
        await until(lambda: front.engine.aborted == 1)
        assert front.engine.running == 0


async def test_garbage_behind_a_request_does_not_get_into_its_reply(make_front: MakeFront) -> None:
    front = make_front("the fox " * 10)
    front.engine.pace = 0.05
    async with listening(front) as address, connection(address) as raw:
        raw.send(request(9, "/generate_stream"))
        await raw.reader.readuntil(b"data: ")
        raw.send(b"garbage\r\n\r\n")
        rest = await raw.reader.read()
    assert b"HTTP/1.1" not in rest
    assert front.engine.aborted == 1


async def test_a_refused_request_may_still_send_its_body(make_front: MakeFront) -> None:
    front = make_front(api_key=("key",), receive_timeout=5)
    async with listening(front) as address, connection(address) as raw:
        raw.send(head())
        assert (await raw.reply())[0] == 401
        raw.send(BODY + head("/generate", len(BODY), "Authorization: Bearer key") + BODY)
        assert (await raw.reply())[0] == 200


# --- deadlines --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hang_after", [0, 2])
async def test_requests_that_take_too_long_are_504(make_front: MakeFront, hang_after: int) -> None:
    front = make_front(request_timeout=0.2)
    front.engine.hang_after = hang_after
    tgi = await front.post("/generate", {"inputs": "hello"})
    assert tgi.status_code == 504
    assert tgi.json() == {"error": "The request took longer than 0.2 seconds", "error_type": "timeout"}
    openai = await front.post("/v1/completions", {"prompt": ["hello", "fox"]})
    assert openai.status_code == 504
    assert openai.json()["error"]["code"] == "timeout"
    assert openai.headers["x-should-retry"] == "false"
    assert front.engine.running == front.context.in_flight == 0
    assert await metric(front, 'tgi_request_failure{err="timeout"}') == 3


async def test_streams_that_take_too_long_end_with_the_error(make_front: MakeFront) -> None:
    front = make_front(request_timeout=1)
    front.engine.hang_after = 2
    tgi = events(await front.post("/generate_stream", {"inputs": "hello"}))
    assert [event.get("index") for event in tgi] == [1, 2, None]
    assert tgi[-1]["error_type"] == "timeout"
    openai = events(await front.post("/v1/completions", {"prompt": "hello", "stream": True}))
    assert openai[-2]["error"]["code"] == "timeout"
    assert openai[-1] == "[DONE]"
    front.engine.hang_after = 0
    assert (await front.post("/generate_stream", {"inputs": "hello"})).status_code == 504
    assert front.engine.running == front.context.in_flight == 0


async def test_requests_within_the_deadline_are_complete(make_front: MakeFront) -> None:
    front = make_front(request_timeout=60)
    response = await front.post("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 3}})
    assert response.status_code == 200


async def test_a_client_that_reads_nothing_is_left_at_the_deadline(make_front: MakeFront) -> None:
    tokens = 200_000
    front = make_front("", request_timeout=0.5)
    front.engine.script = [100] * tokens
    front.engine.info.max_total_tokens = 2 * tokens
    body = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": tokens}}).encode()
    async with listening(front) as address, connection(address) as raw:
        raw.send(head("/generate_stream", len(body)) + body)
        await until(lambda: bool(front.engine.requests))
        await until(lambda: front.engine.running == 0)
        assert front.engine.delivered < tokens
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.get("/health")).status_code == 200
    assert front.context.in_flight == 0


async def test_the_engine_is_told_how_long_a_request_may_wait(make_front: MakeFront) -> None:
    front = make_front(queue_timeout=2.5)
    await front.post("/generate", {"inputs": "hello"})
    assert front.engine.requests[0].queue_timeout == 2.5


async def test_requests_that_waited_too_long_for_the_engine_are_429(make_front: MakeFront) -> None:
    front = make_front(queue_timeout=2.5)
    front.engine.fail_after, front.engine.error = 0, Overloaded("The request waited longer than 2.5 seconds")
    for path, body in (("/generate_stream", {"inputs": "hello"}), ("/v1/completions", {"prompt": "hello"})):
        response = await front.post(path, body)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
    assert await metric(front, 'tgi_request_failure{err="overloaded"}') == 2
