"""/health, /info, /tokenize and /chat_tokenize."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from front import Front, listening, write_model_folder


@pytest.mark.parametrize(("path", "content"), [("/health", b""), ("/", b'{"status":"alive"}')])
async def test_health_is_the_engines(front: Front, path: str, content: bytes) -> None:
    healthy = await front.get(path)
    assert (healthy.status_code, healthy.content) == (200, content)
    front.engine.healthy = False
    unhealthy = await front.get(path)
    assert unhealthy.status_code == 503
    assert unhealthy.json() == {"error": "unhealthy", "error_type": "healthcheck"}


async def test_wrong_methods_are_told_the_right_ones(front: Front) -> None:
    for path, methods in (("/", "GET, POST"), ("/health", "GET"), ("/generate", "POST")):
        refusal = await front.client.put(path)
        assert (refusal.status_code, refusal.headers["allow"]) == (405, methods)


async def test_head_is_get_without_a_body(front: Front) -> None:
    async with listening(front) as address, httpx.AsyncClient(base_url=address) as client:
        for path, status in (("/health", 200), ("/info", 200), ("/nowhere", 404), ("/generate", 405)):
            head, get = await client.head(path), await client.get(path)
            assert head.status_code == get.status_code == status
            assert head.content == b""
            assert head.headers.get("content-length") == get.headers.get("content-length")


async def test_draining_refuses_new_work_and_closes_the_connection(front: Front) -> None:
    front.context.lifecycle.draining = True
    assert (await front.get("/health")).status_code == 503
    for path, body in (("/generate", {"inputs": "hello"}), ("/v1/completions", {"prompt": "hello"})):
        response = await front.post(path, body)
        assert response.status_code == 503
        assert response.headers["connection"] == "close"
        assert "shutting down" in response.text
    assert front.engine.requests == []
    assert (await front.get("/metrics")).status_code == 200


async def test_info_tells_model_and_limits(make_front: Callable[..., Front]) -> None:
    front = make_front(served_model_name="public-name", max_concurrent_requests=9)
    info = (await front.get("/info")).json()
    assert info["model_id"] == "public-name"
    assert info["model_sha"] is None
    assert info["max_concurrent_requests"] == 9
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (255, 256)
    assert info["max_batch_total_tokens"] == 1024
    assert info["model_dtype"] == "float32"
    assert info["model_pipeline_tag"] == "text-generation"
    assert info["router"] == "text-generation-router"
    for name in ("version", "sha", "docker_label", "validation_workers", "max_stop_sequences", "max_best_of"):
        assert name in info


async def test_tokenize_gives_byte_offsets(front: Front) -> None:
    text = "the fox é🦊 the"
    tokens = (await front.post("/tokenize", {"inputs": text})).json()
    assert [token["id"] for token in tokens] == front.tokenizer.encode(text)
    assert tokens[0] == {"id": front.tokenizer.bos_id, "text": "", "start": 0, "stop": 0}
    raw = text.encode()
    for token in tokens[1:]:
        assert raw[token["start"] : token["stop"]].decode() == token["text"]
    assert tokens[-1]["stop"] == len(raw)


async def test_tokenize_takes_no_place(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=1)
    with front.context.generator.admission.hold():
        assert (await front.post("/tokenize", {"inputs": "the fox"})).status_code == 200
        assert (await front.post("/generate", {"inputs": "the fox"})).status_code == 429


async def test_chat_tokenize_shows_the_prompt_and_its_tokens(front: Front) -> None:
    messages = [{"role": "user", "content": "the fox é🦊"}]
    reply = (await front.post("/chat_tokenize", {"messages": messages})).json()
    text = reply["templated_text"]
    assert text == "<bos><turn>user\nthe fox é🦊<eos>\n<turn>assistant\n"
    tokens = reply["tokenize_response"]
    assert [token["id"] for token in tokens] == front.tokenizer.encode(text, add_special_tokens=False)
    assert tokens[0] == {"id": front.tokenizer.bos_id, "text": "<bos>", "start": 0, "stop": 5}
    assert tokens[-1]["stop"] == len(text.encode())
    await front.post("/v1/chat/completions", {"messages": messages})
    assert front.engine.requests[0].prompt == [token["id"] for token in tokens]


async def test_chat_tokenize_needs_a_template_and_messages(tmp_path: Path) -> None:
    front = Front(write_model_folder(tmp_path / "plain", template=None), "x")
    response = await front.post("/chat_tokenize", {"messages": [{"role": "user", "content": "hello"}]})
    assert (response.status_code, response.json()["error_type"]) == (422, "template_error")
    missing = await front.post("/chat_tokenize", {"inputs": "hello"})
    assert (missing.status_code, missing.json()["error_type"]) == (422, "validation")
    await front.close()


async def test_the_compute_type_can_be_set(make_front: Callable[..., Front]) -> None:
    front = make_front(compute_type="2-tpu")
    for path in ("/generate", "/generate_stream"):
        assert (await front.post(path, {"inputs": "hello"})).headers["x-compute-type"] == "2-tpu"


async def test_grammars_can_be_refused(make_front: Callable[..., Front]) -> None:
    front = make_front(disable_grammar_support=True)
    body = {"inputs": "hello", "parameters": {"grammar": {"type": "regex", "value": "[0-9]+"}}}
    response = await front.post("/generate", body)
    assert response.status_code == 422
    assert response.json()["error"].startswith("Input validation error: grammar is not supported")
    chat = {"messages": [{"role": "user", "content": "hello"}], "response_format": {"type": "json_object"}}
    assert (await front.post("/v1/chat/completions", chat)).json()["error"]["param"] == "response_format"
