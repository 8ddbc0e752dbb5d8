"""Each request has an id, which its reply, its lines in the log and its errors carry, and one line at its end."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from front import Front, listening, until

from textgen_server.errors import GenerationError
from textgen_server.telemetry import JsonFormatter, TextFormatter, log_fields

GENERATE = {"inputs": "hello", "parameters": {"max_new_tokens": 3}}


class Lines(logging.Handler):
    """What the formatters make of all that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.json: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(TextFormatter("%(message)s").format(record))
        self.json.append(json.loads(JsonFormatter().format(record)))

    def of_requests(self) -> list[dict[str, Any]]:
        return [line for line in self.json if line["target"] == "textgen_server.api.records"]


@pytest.fixture
def lines() -> Any:
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.mark.parametrize("id", ["a", "1f0e-ID_of.the~client:/+=@", "x" * 128])
async def test_the_client_s_id_is_returned(front: Front, id: str) -> None:
    response = await front.post("/generate", GENERATE, headers={"x-request-id": id})
    assert response.headers["x-request-id"] == id


@pytest.mark.parametrize("id", ["", "x" * 129, "two words", 'quote"', "a\tb", "<script>", "é", None])
async def test_without_a_sane_one_the_server_makes_one(front: Front, id: str | None) -> None:
    headers = [] if id is None else [(b"x-request-id", id.encode("latin-1"))]
    response = await front.client.post("/generate", json=GENERATE, headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_every_reply_has_an_id_of_its_own(make_front: Callable[..., Front]) -> None:
    front = make_front(api_key=("key",), payload_limit=1000)
    key = {"authorization": "Bearer key"}
    front.engine.error, front.engine.fail_after = RuntimeError("unforeseen"), 1
    replies = [
        await front.get("/health"),
        await front.get("/metrics"),
        await front.get("/nowhere", headers=key),
        await front.get("/info"),
        await front.client.options("/generate", headers={"origin": "x", "access-control-request-method": "POST"}),
        await front.post("/generate", {"inputs": ""}, headers=key),
        await front.post("/generate", {"inputs": "x" * 2000}, headers=key),
        await front.post("/generate", GENERATE, headers=key),
        await front.post("/generate_stream", GENERATE, headers=key),
        await front.post("/v1/completions", {"prompt": "hello", "stream": True}, headers=key),
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 404, 401, 200, 422, 413, 500, 200, 200]
    ids = [reply.headers.get_list("x-request-id") for reply in replies]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(replies)


async def test_a_finished_request_is_one_line(front: Front, lines: Lines) -> None:
    response = await front.post("/generate", GENERATE, headers={"x-request-id": "mine"})
    (line,) = lines.of_requests()
    expected = {
        "level": "INFO", "request_id": "mine", "method": "POST", "route": "/generate", "status": 200,
        "model": "test-model", "prompt_tokens": int(response.headers["x-prompt-tokens"]), "generated_tokens": 3,
        "finish_reason": "length", "queue_seconds": 0.25,
    }  # fmt: skip
    assert {name: line.get(name) for name in expected} == expected
    assert 0 < line["validation_seconds"] < line["total_seconds"]
    assert 0 < line["first_token_seconds"] < line["total_seconds"]
    assert "trace_id" not in line
    (text,) = [text for text in lines.text if text.startswith("POST")]
    assert re.fullmatch(
        r"POST /generate 200 in \d\.\d{3} s: \d+ prompt tokens, 3 generated, queue 0\.250 s,"
        r" first token \d\.\d{3} s \[mine\]",
        text,
    )


@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
async def test_streams_and_single_replies_are_told_alike(front: Front, lines: Lines, path: str) -> None:
    await front.post(path, GENERATE)
    (line,) = lines.of_requests()
    assert (line["route"], line["status"], line["generated_tokens"]) == (path, 200, 3)


async def test_several_prompts_are_one_line(front: Front, lines: Lines) -> None:
    reply = (await front.post("/v1/completions", {"prompt": ["hello", "the fox"], "max_tokens": 3})).json()
    (line,) = lines.of_requests()
    assert line["prompt_tokens"] == reply["usage"]["prompt_tokens"]
    assert line["generated_tokens"] == 6


async def test_failures_say_why(front: Front, lines: Lines) -> None:
    front.engine.fail_after, front.engine.error = 1, GenerationError("bad numbers")
    await front.post("/generate", GENERATE)
    await front.post("/generate_stream", GENERATE)
    await front.post("/generate", {"inputs": ""})
    told = [(line["status"], line["failure"]) for line in lines.of_requests()]
    assert told == [(424, "generation"), (200, "generation"), (422, "validation")]


@pytest.mark.parametrize(("path", "status"), [("/generate", 499), ("/generate_stream", 200)])
async def test_clients_that_leave_are_told_apart(front: Front, lines: Lines, path: str, status: int) -> None:
    front.engine.hang_after = 2
    async with listening(front) as address, httpx.AsyncClient(base_url=address) as client:
        asking = asyncio.create_task(client.post(path, json=GENERATE))
        await until(lambda: front.engine.delivered == 2)
        asking.cancel()
        await until(lambda: bool(lines.of_requests()))
    (line,) = lines.of_requests()
    assert (line["status"], line["failure"]) == (status, "dropped")


async def test_what_nobody_foresaw_is_logged_with_the_request_s_id(front: Front, lines: Lines) -> None:
    front.engine.fail_after, front.engine.error = 0, RuntimeError("unforeseen")
    response = await front.post("/generate", GENERATE, headers={"x-request-id": "mine"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine")
    (line,) = [line for line in lines.json if "exception" in line]
    assert line["request_id"] == "mine"
    assert "RuntimeError: unforeseen" in line["exception"]


async def test_probes_and_scrapes_are_not_told(front: Front, lines: Lines) -> None:
    for path in ("/health", "/", "/metrics"):
        await front.get(path)
    assert lines.of_requests() == []
    await front.get("/info")
    assert [line["route"] for line in lines.of_requests()] == ["/info"]


async def test_paths_cannot_forge_lines(front: Front, lines: Lines) -> None:
    await front.get("/nowhere%0AINFO%20all%20is%20well")
    await front.get("/" + "x" * 5000)
    forged, long = lines.of_requests()
    assert "\n" not in forged["message"]
    assert r"\nINFO" in forged["message"]
    assert len(long["message"]) < 300


async def test_neither_keys_nor_texts_are_logged(make_front: Callable[..., Front], lines: Lines) -> None:
    front = make_front("the quick brown fox", api_key=("the-secret",))
    logging.getLogger().setLevel(logging.DEBUG)
    for key in ("the-secret", "the-wrong-secret"):
        await front.post("/generate", {"inputs": "what is deep"}, headers={"authorization": f"Bearer {key}"})
    told = "\n".join(lines.text) + json.dumps(lines.json)
    assert "POST /generate" in told
    for text in ("secret", "what is deep", "quick brown"):
        assert text not in told


def test_lines_outside_of_requests_have_no_id() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO"})
    assert "request_id" not in json.loads(JsonFormatter().format(record))
    assert TextFormatter("%(message)s").format(record) == "hello"
    assert log_fields.get() == {}
