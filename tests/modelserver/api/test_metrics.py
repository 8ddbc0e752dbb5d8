"""/metrics: TGI's names, types and labels, and what its users miss; every request is counted once."""

import asyncio
import re
from collections.abc import Callable

import pytest
from front import Front, metric, until
from prometheus_client.parser import text_string_to_metric_families

from textgen_server import telemetry

ASK = {"inputs": "hello", "parameters": {"max_new_tokens": 5}}

# Type and label of each metric of TGI. The skipped tokens are a summary there, but its dashboard asks for buckets.
TGI = {
    "tgi_request_count": ("counter", None),
    "tgi_request_success": ("counter", None),
    "tgi_request_failure": ("counter", "err"),
    "tgi_request_duration": ("histogram", None),
    "tgi_request_validation_duration": ("histogram", None),
    "tgi_request_queue_duration": ("histogram", None),
    "tgi_request_inference_duration": ("histogram", None),
    "tgi_request_mean_time_per_token_duration": ("histogram", None),
    "tgi_request_generated_tokens": ("histogram", None),
    "tgi_request_input_length": ("histogram", None),
    "tgi_request_max_new_tokens": ("histogram", None),
    "tgi_request_skipped_tokens": ("histogram", None),
    "tgi_queue_size": ("gauge", None),
    "tgi_batch_current_size": ("gauge", None),
    "tgi_batch_current_max_tokens": ("gauge", None),
    "tgi_batch_max_total_tokens": ("gauge", None),
    "tgi_batch_next_size": ("histogram", None),
    "tgi_batch_inference_count": ("counter", "method"),
    "tgi_batch_inference_success": ("counter", "method"),
    "tgi_batch_inference_failure": ("counter", "method"),
    "tgi_batch_inference_duration": ("histogram", "method"),
    "tgi_batch_forward_duration": ("histogram", "method"),
    "tgi_batch_decode_duration": ("histogram", "method"),
    "tgi_batch_filter_duration": ("histogram", "method"),
    "tgi_batch_concat": ("counter", "reason"),
    "tgi_batch_concat_duration": ("histogram", "method"),
}

# What the panels of TGI's Grafana dashboard (assets/tgi_grafana.json) read: series, and the labels that they pick.
DASHBOARD = [
    ("tgi_batch_concat", "reason="),
    ("tgi_batch_concat_duration_bucket", 'method="decode"'),
    ("tgi_batch_current_max_tokens", ""),
    ("tgi_batch_current_size", ""),
    ("tgi_batch_decode_duration_bucket", 'method="decode"'),
    ("tgi_batch_filter_duration_bucket", 'method="decode"'),
    ("tgi_batch_forward_duration_bucket", 'method="decode"'),
    ("tgi_batch_inference_duration_bucket", 'method="decode"'),
    ("tgi_batch_inference_duration_bucket", 'method="prefill"'),
    ("tgi_queue_size", ""),
    ("tgi_request_count", ""),
    ("tgi_request_duration_bucket", ""),
    ("tgi_request_failure", "err="),
    ("tgi_request_generated_tokens_bucket", ""),
    ("tgi_request_generated_tokens_count", ""),
    ("tgi_request_generated_tokens_sum", ""),
    ("tgi_request_input_length_bucket", ""),
    ("tgi_request_mean_time_per_token_duration_bucket", ""),
    ("tgi_request_queue_duration_bucket", ""),
    ("tgi_request_skipped_tokens_bucket", ""),
    ("tgi_request_success", ""),
]


async def page(front: Front) -> str:
    return (await front.get("/metrics")).text


async def test_every_metric_of_tgi_is_there_from_the_start_with_its_type_and_label(front: Front) -> None:
    text = await page(front)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    shown = {name: family.type for name, family in families.items() if name.startswith("tgi_")}
    assert shown == {name: kind for name, (kind, _) in TGI.items()}
    for name, (_, label) in TGI.items():
        labels = {key for sample in families[name].samples for key in sample.labels} - {"le"}
        assert labels == ({label} if label else set()), name
    assert "_created" not in text
    assert not re.search(r"\btgi_\w+_total\b", text)


@pytest.mark.parametrize(("series", "labels"), DASHBOARD)
async def test_what_tgis_dashboard_asks_for_is_there(front: Front, series: str, labels: str) -> None:
    samples = [line for line in (await page(front)).splitlines() if re.match(rf"{series}[{{ ]", line)]
    assert [line for line in samples if labels in line]


async def test_every_metric_that_is_defined_is_shown(front: Front) -> None:
    await front.post("/generate", ASK)  # only then there are replies to count
    text = await page(front)
    defined = [
        name for key, name in vars(telemetry).items() if key.isupper() and str(name).startswith(("tgi_", "textgen_"))
    ]
    assert len(defined) >= 40
    assert [name for name in defined if f"\n{name}" not in text] == []


async def test_a_request_shows_in_all_of_its_metrics(front: Front) -> None:
    await front.post("/generate", ASK)
    expected = {
        "tgi_request_count": 1,
        "tgi_request_success": 1,
        "tgi_request_generated_tokens_sum": 5,
        "tgi_request_max_new_tokens_sum": 5,
        "tgi_request_input_length_sum": len(front.engine.requests[0].prompt),
        "tgi_request_queue_duration_sum": 0.25,
        "tgi_request_duration_count": 1,
        "tgi_request_validation_duration_count": 1,
        "tgi_request_inference_duration_count": 1,
        "tgi_request_mean_time_per_token_duration_count": 1,
        'textgen_time_to_first_token_seconds_count{adapter=""}': 1,
        'textgen_inter_token_latency_seconds_count{adapter=""}': 4,
        'textgen_http_requests_total{method="POST",route="/generate",status="200"}': 1,
    }
    for name, value in expected.items():
        assert await metric(front, name) == value, name


async def test_the_engine_tells_of_its_steps(front: Front) -> None:
    expected = {
        "tgi_queue_size": 2,
        "tgi_batch_current_size": 3,
        "tgi_batch_current_max_tokens": 600,
        "tgi_batch_max_total_tokens": 1024,
        'tgi_batch_inference_count{method="prefill"}': 3,
        'tgi_batch_inference_success{method="prefill"}': 2,
        'tgi_batch_inference_failure{method="prefill"}': 1,
        'tgi_batch_inference_failure{method="decode"}': 0,
        'tgi_batch_inference_duration_sum{method="decode"}': 0.04,
        'tgi_batch_forward_duration_count{method="decode"}': 2,
        'tgi_batch_next_size_bucket{le="1.0"}': 1,
        "tgi_batch_next_size_sum": 3,
        'tgi_batch_concat{reason="chunking"}': 1,
        'tgi_batch_concat_duration_count{method="decode"}': 1,
        'tgi_request_skipped_tokens_bucket{le="0.0"}': 2,
        'tgi_request_skipped_tokens_bucket{le="3.0"}': 3,
        "textgen_guessed_tokens_total": 8,
        "textgen_right_guesses_total": 3,
        "textgen_kv_cache_usage_ratio": 0.25,
        "textgen_prompt_tokens_total": 100,
        "textgen_prefix_cached_tokens_total": 40,
        "textgen_preemptions_total": 0,
        "textgen_engine_up": 1,
    }
    for name, value in expected.items():
        assert await metric(front, name) == value, name


@pytest.mark.parametrize(
    ("path", "body", "requests"),
    [
        ("/generate", ASK, 1),
        ("/generate", {"inputs": "hello", "parameters": {"best_of": 2, "do_sample": True}}, 2),
        ("/v1/completions", {"prompt": ["hello", "fox"], "max_tokens": 4}, 2),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}, 1),
        ("/tokenize", {"inputs": "hello"}, 0),
    ],
)
async def test_each_generation_is_counted_once(front: Front, path: str, body: object, requests: int) -> None:
    assert (await front.post(path, body)).status_code == 200
    assert await metric(front, "tgi_request_count") == requests
    assert await metric(front, "tgi_request_success") == requests
    assert await metric(front, "tgi_request_duration_count") == requests


async def test_what_was_received_is_finished_failed_or_in_flight(make_front: Callable[..., Front]) -> None:
    front = make_front(max_concurrent_requests=3)
    front.engine.hang_after = 2
    hanging = asyncio.create_task(front.post("/generate", {"inputs": "hello"}))
    await until(lambda: front.engine.running == 1)
    await front.post("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 1}})
    await front.post("/generate", {"inputs": ""})
    await front.post("/v1/completions", {"prompt": ["a", "b", "c", "d"]})
    assert await metric(front, "tgi_request_count") == 7
    assert await metric(front, "tgi_request_success") == 1
    assert await metric(front, 'tgi_request_failure{err="validation"}') == 1
    assert await metric(front, 'tgi_request_failure{err="overloaded"}') == 4
    assert await metric(front, 'textgen_requests_in_flight{adapter=""}') == 1
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    await until(lambda: front.engine.running == 0)
    assert await metric(front, 'tgi_request_failure{err="dropped"}') == 1
    assert await metric(front, 'textgen_requests_in_flight{adapter=""}') == 0


async def test_adapters_are_told_apart(front: Front) -> None:
    front.engine.info.adapters.append("law")
    await front.post("/generate", {"inputs": "hello", "parameters": {"adapter_id": "law", "max_new_tokens": 3}})
    expected = {
        "textgen_adapter_requests_total": 1,
        "textgen_adapter_prompt_tokens_total": len(front.engine.requests[0].prompt),
        "textgen_adapter_generated_tokens_total": 3,
        "textgen_time_to_first_token_seconds_count": 1,
        "textgen_inter_token_latency_seconds_count": 2,
    }
    for name, value in expected.items():
        assert await metric(front, f'{name}{{adapter="law"}}') == value, name
        assert await metric(front, f'{name}{{adapter=""}}') == 0, name


async def test_replies_are_counted_by_route_and_status_and_made_up_paths_are_one(front: Front) -> None:
    await front.post("/generate", {"inputs": ""})
    await front.get("/generate")
    for name in ("a", "b"):
        await front.get(f"/nowhere/{name}")
    assert await metric(front, 'textgen_http_requests_total{method="POST",route="/generate",status="422"}') == 1
    assert await metric(front, 'textgen_http_requests_total{method="GET",route="/generate",status="405"}') == 1
    assert await metric(front, 'textgen_http_requests_total{method="",route="",status="404"}') == 2


@pytest.mark.parametrize("trouble", ["down", "hanging"])
async def test_metrics_answer_while_the_engine_does_not(front: Front, trouble: str) -> None:
    front.engine.healthy = trouble != "down"
    front.engine.status_hangs = trouble == "hanging"
    response = await front.get("/metrics")
    assert response.status_code == 200
    assert "tgi_request_count" in response.text
    assert "tgi_queue_size" not in response.text
    assert "\ntextgen_engine_up 0.0" in response.text


async def test_the_build_tells_what_runs(front: Front) -> None:
    (line,) = [line for line in (await page(front)).splitlines() if line.startswith("textgen_build_info")]
    assert f'version="{telemetry.VERSION}"' in line
    assert 'dtype="float32"' in line
    assert 'device="cpu"' in line
