"""/health, /info, /metrics and /tokenize."""

import time
from collections.abc import Callable

import pytest
from front import Front, metric


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


async def test_metrics_have_tgis_names(front: Front) -> None:
    await front.post("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 5}})
    page = (await front.get("/metrics")).text
    assert "# TYPE tgi_request_count counter" in page
    assert "\ntgi_request_count 1.0" in page
    assert "_created" not in page
    assert "tgi_request_count_total" not in page
    expected = {
        "tgi_request_success": 1,
        "tgi_request_generated_tokens_sum": 5,
        "tgi_request_max_new_tokens_sum": 5,
        "tgi_request_input_length_sum": len(front.engine.requests[0].prompt),
        "tgi_request_queue_duration_sum": 0.25,
        "tgi_request_duration_count": 1,
        "tgi_request_validation_duration_count": 1,
        "tgi_request_inference_duration_count": 1,
        "tgi_request_mean_time_per_token_duration_count": 1,
        "textgen_time_to_first_token_seconds_count": 1,
        "textgen_inter_token_latency_seconds_count": 4,
        "tgi_queue_size": 2,
        "tgi_batch_current_size": 3,
        "tgi_batch_max_total_tokens": 1024,
        "textgen_kv_cache_usage_ratio": 0.25,
        "textgen_prompt_tokens_total": 100,
        "textgen_prefix_cached_tokens_total": 40,
        "textgen_preemptions_total": 0,
    }
    for name, value in expected.items():
        assert await metric(front, name) == value, name


@pytest.mark.parametrize("trouble", ["down", "hanging"])
async def test_metrics_answer_while_the_engine_does_not(front: Front, trouble: str) -> None:
    front.engine.healthy = trouble != "down"
    front.engine.status_hangs = trouble == "hanging"
    before = time.monotonic()
    response = await front.get("/metrics")
    assert response.status_code == 200
    assert "tgi_request_count" in response.text
    assert "tgi_queue_size" not in response.text
    assert time.monotonic() - before < 5


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
