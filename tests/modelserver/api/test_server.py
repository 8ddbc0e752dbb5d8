"""/health, /info and /tokenize."""

from collections.abc import Callable

import pytest
from front import Front


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
