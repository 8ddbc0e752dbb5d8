"""Every wrong request has a clear, immediate answer in the shape of the API that it came through."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from front import Front, events, metric, until

from textgen_server.errors import GenerationError


def inputs(**parameters: object) -> dict[str, object]:
    return {"inputs": "hello", "parameters": parameters}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": -1}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "supports up to 4 stop sequences. Given: 5"),
        ({"stop": [""]}, "`stop` must not contain an empty string"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 255. Given: 0"),
        ({"truncate": 256}, "less than 255. Given: 256"),
        ({"max_new_tokens": 256}, "tokens + `max_new_tokens` must be <= 256. Given: 2 `inputs` tokens and 256"),
        ({"best_of": -1}, "`parameters.best_of`: Input should be greater than or equal to 0"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"grammar": {"type": "json", "value": 5}}, "grammar is not supported"),
        ({"grammar": {"type": "yaml", "value": ""}}, "'json_schema'"),
        ({"grammar": {"type": "regex"}}, "`parameters.grammar.regex.value`: Field required"),
        ({"grammar": "[0-9]+"}, "`parameters.grammar`"),
        ({"max_new_tokens": "5"}, "`parameters.max_new_tokens`: Input should be a valid integer"),
        ({"max_new_tokens": 5.0}, "`parameters.max_new_tokens`: Input should be a valid integer"),
        ({"seed": -1}, "`parameters.seed`: Input should be greater than or equal to 0"),
        ({"stop": "end"}, "`parameters.stop`: Input should be a valid list"),
        ({"temperature": "a", "top_p": "b"}, "`parameters.temperature`: Input should be a valid number (and 1 more)"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_wrong_parameters_are_named(front: Front, path: str, parameters: dict[str, object], text: str) -> None:
    response = await front.post(path, inputs(**parameters))
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert response.json()["error"].startswith("Input validation error: ")
    assert text in response.json()["error"]
    assert front.engine.requests == []


@pytest.mark.parametrize("neutral", [{"best_of": 1}, {"top_n_tokens": 0}, {"top_p": 1.0}, {"typical_p": 1.0}])
async def test_values_that_ask_for_nothing_are_accepted(front: Front, neutral: dict[str, object]) -> None:
    assert (await front.post("/generate", inputs(**neutral))).status_code == 200
    assert front.engine.requests[0].sampling.greedy


async def test_a_prompt_beyond_the_limit_names_both_numbers(front: Front) -> None:
    response = await front.post("/generate", {"inputs": "🦊" * 100})
    assert response.status_code == 422
    assert "`inputs` tokens + `max_new_tokens` must be <= 256. Given: 401 `inputs` tokens" in response.json()["error"]


async def test_an_unknown_adapter_is_404(front: Front) -> None:
    response = await front.post("/generate", inputs(adapter_id="mine"))
    assert response.status_code == 404
    assert response.json() == {
        "error": "The adapter `mine` does not exist; this server has none",
        "error_type": "model_not_found",
    }


async def test_as_in_tgi_more_than_1024_new_tokens_run_until_the_limit(front: Front) -> None:
    front.engine.info.max_total_tokens = 2000
    await front.post("/generate", inputs(max_new_tokens=100_000))
    (request,) = front.engine.requests
    assert request.max_new_tokens == 2000 - len(request.prompt)


async def test_an_empty_prompt_is_refused(front: Front) -> None:
    assert "`inputs` cannot be empty" in (await front.post("/generate", {"inputs": ""})).json()["error"]
    openai = (await front.post("/v1/completions", {"prompt": ""})).json()["error"]
    assert "`prompt` cannot be empty" in openai["message"]
    assert openai["param"] == "prompt"


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"\xff\xfe", b'{"inputs": "\\ud800"}', b'{"inputs": "x", "n": NaN}', b"[" * 100_000, b"nonsense"],
)
async def test_what_is_not_json_is_400(front: Front, garbage: bytes) -> None:
    json_type = {"content-type": "application/json"}
    tgi = await front.client.post("/generate", content=garbage, headers=json_type)
    assert tgi.status_code == 400
    assert tgi.json()["error_type"] == "validation"
    assert "Failed to parse the request body as JSON" in tgi.json()["error"]
    openai = await front.client.post("/v1/completions", content=garbage, headers=json_type)
    assert openai.status_code == 400
    assert openai.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[]", b"3", b'"text"', b"null", b"{}"])
async def test_json_of_another_kind_is_422(front: Front, body: bytes) -> None:
    response = await front.client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types_are_told_the_right_one(front: Front, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await front.client.post("/generate", content=b'{"inputs":"hello"}', headers=headers)
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"])
async def test_all_ways_to_say_json_are_fine(front: Front, content_type: str) -> None:
    headers = {"content-type": content_type}
    assert (await front.client.post("/generate", content=b'{"inputs":"hi"}', headers=headers)).status_code == 200


async def test_unknown_paths_and_methods_answer_in_json(front: Front) -> None:
    assert (await front.get("/nowhere")).json() == {"error": "Not Found", "error_type": "not_found"}
    assert (await front.get("/generate")).status_code == 405
    assert (await front.get("/generate")).json()["error_type"] == "method_not_allowed"
    assert (await front.get("/v1/nowhere")).json()["error"]["message"] == "Not Found"


async def test_bodies_beyond_the_payload_limit_are_413(make_front: Callable[..., Front]) -> None:
    front = make_front(payload_limit=1000)
    fits = await front.post("/generate", {"inputs": "x" * 100})
    declared = await front.post("/generate", {"inputs": "x" * 1000})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    streamed = await front.client.post(
        "/v1/completions", content=chunks(), headers={"content-type": "application/json"}
    )
    assert fits.status_code == 200
    assert declared.status_code == streamed.status_code == 413
    assert declared.json() == {
        "error": "The request body is larger than 1000 bytes",
        "error_type": "payload_too_large",
    }
    assert streamed.json()["error"]["code"] == "payload_too_large"


async def test_absurd_lengths_are_too_large_not_too_much_for_us(front: Front) -> None:
    headers = {"content-type": "application/json", "content-length": "9" * 5000}
    assert (await front.client.post("/generate", content=b"{}", headers=headers)).status_code == 413


async def test_overload_is_429_before_anything_is_done(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=2)
    front.engine.hang_after = 1
    running = [asyncio.create_task(front.post("/generate", inputs())) for _ in range(2)]
    await until(lambda: front.engine.running == 2)
    encoded: list[object] = []
    front.context.encoder.encode = lambda *args: encoded.append(args)  # type: ignore[method-assign,assignment,return-value]

    refused = await front.post("/generate", inputs())
    streamed = await front.post("/generate_stream", inputs())
    openai = await front.post("/v1/completions", {"prompt": "hello"})
    assert [response.status_code for response in (refused, streamed, openai)] == [429, 429, 429]
    assert refused.headers["retry-after"] == openai.headers["retry-after"] == "1"
    assert refused.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
    assert openai.json()["error"]["type"] == "rate_limit_error"
    assert encoded == []
    assert (await front.get("/health")).status_code == 200
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert front.context.in_flight == 0


async def test_each_prompt_of_a_completion_takes_a_place(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=3)
    assert (await front.post("/v1/completions", {"prompt": ["a"] * 3})).status_code == 200
    assert (await front.post("/v1/completions", {"prompt": ["a"] * 4})).status_code == 429


@pytest.mark.parametrize(
    ("error", "tgi_status", "openai_status", "error_type"),
    [(GenerationError("bad numbers"), 424, 500, "generation"), (None, 503, 503, "healthcheck")],
)
async def test_an_engine_that_fails_before_the_first_token_is_a_status_code(
    front: Front, error: Exception | None, tgi_status: int, openai_status: int, error_type: str
) -> None:
    front.engine.fail_after = 0
    front.engine.error = error or front.engine.error
    for path in ("/generate", "/generate_stream"):
        response = await front.post(path, inputs())
        assert response.status_code == tgi_status
        assert response.json()["error_type"] == error_type
    for stream in (False, True):
        response = await front.post("/v1/completions", {"prompt": "hello", "stream": stream})
        assert response.status_code == openai_status
        assert response.json()["error"]["code"] == error_type
    assert front.context.in_flight == 0


async def test_an_engine_that_fails_later_ends_the_stream_with_the_error(front: Front) -> None:
    front.engine.fail_after = 2
    tgi = events(await front.post("/generate_stream", inputs()))
    assert [event.get("index") for event in tgi] == [1, 2, None]
    assert tgi[-1] == {"error": "the engine died", "error_type": "healthcheck"}
    openai = events(await front.post("/v1/completions", {"prompt": "hello", "stream": True}))
    assert openai[-2]["error"]["message"] == "the engine died"
    assert openai[-1] == "[DONE]"
    assert (await front.post("/generate", inputs())).status_code == 503


async def test_a_generation_without_an_end_is_an_error(front: Front) -> None:
    front.engine.truncate_after = 2
    response = await front.post("/generate", inputs())
    assert response.status_code == 500
    assert response.json()["error_type"] == "incomplete_generation"
    stream = events(await front.post("/generate_stream", inputs()))
    assert stream[-1]["error_type"] == "incomplete_generation_stream"
    assert await metric(front, 'tgi_request_failure{err="incomplete"}') == 2


async def test_unforeseen_errors_tell_no_secrets(front: Front) -> None:
    front.engine.error = RuntimeError("password")
    front.engine.fail_after = 0
    response = await front.post("/generate", inputs())
    assert response.status_code == 500
    assert response.json()["error_type"] == "internal"
    front.engine.fail_after = 1
    streamed = events(await front.post("/generate_stream", inputs()))
    assert streamed[-1]["error_type"] == "internal"
    assert "password" not in response.text + str(streamed)


async def test_failures_are_counted_by_cause(front: Front) -> None:
    await front.post("/generate", inputs(temperature=0))
    front.engine.fail_after = 0
    await front.post("/generate", inputs())
    assert await metric(front, 'tgi_request_failure{err="validation"}') == 1
    assert await metric(front, 'tgi_request_failure{err="generation"}') == 1
    assert await metric(front, "tgi_request_count") == 2


async def test_browsers_of_any_origin_may_call(front: Front) -> None:
    asking = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = await front.client.options("/generate", headers=asking)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    response = await front.post("/generate_stream", inputs(), headers={"origin": "https://example.org"})
    assert response.headers["access-control-allow-origin"] == "*"


async def test_every_route_is_in_the_openapi_document(front: Front) -> None:
    document: dict[str, dict[str, object]] = (await front.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/", "/health", "/info", "/metrics", "/generate", "/generate_stream", "/tokenize",
        "/chat_tokenize", "/ping", "/invocations", "/vertex",
        "/v1/models", "/v1/models/{model_id}", "/v1/completions",
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/chat/completions",
        "/v1/models/{model_name}:predict", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models",
        *(f"/v2/models/{{model_name}}{version}{suffix}"
          for version in ("", "/versions/{model_version}")
          for suffix in ("", "/ready", "/infer", "/generate", "/generate_stream")),
    }  # fmt: skip


async def test_the_server_serves_on_after_a_flood(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=16)
    front.engine.pace = 0.002
    replies: list[httpx.Response] = await asyncio.gather(*(front.post("/generate", inputs()) for _ in range(300)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 16
    assert front.context.in_flight == front.engine.running == 0
    assert (await front.post("/generate", inputs())).status_code == 200
