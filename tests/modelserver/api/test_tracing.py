"""Traces of requests, as an OpenTelemetry collector gets them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from front import Front
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_collector import Collector, attributes, collecting

from textgen_server.api import tracing
from textgen_server.api.tracing import Tracing
from textgen_server.edge import Edge
from textgen_server.errors import GenerationError, StartupError
from textgen_server.settings import parse
from textgen_server.telemetry import log_fields

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GENERATE = {"inputs": "hello", "parameters": {"max_new_tokens": 3, "temperature": 0.5, "seed": 7}}


class Traced:
    """A front whose traces go to a collector."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        self.tracing = Tracing(collector.endpoint, "my-service", "1.2.3")
        self.front = Front(folder, "deep learning is the fox", tracing=self.tracing)
        self.collector = collector

    def spans(self) -> list[Span]:
        """All that were sent; there come no more."""
        self.tracing.close()
        return self.collector.spans

    def request_span(self) -> Span:
        (span,) = [span for span in self.spans() if span.kind == Span.SPAN_KIND_SERVER]
        return span


@pytest.fixture(scope="module")
def running_collector() -> Iterator[Collector]:
    with collecting() as it:
        yield it


@pytest.fixture
def traced(running_collector: Collector, model_folder: Path) -> Iterator[Traced]:
    running_collector.spans.clear()
    running_collector.resources.clear()
    it = Traced(model_folder, running_collector)
    yield it
    it.tracing.close()
    it.front.context.encoder.close()


async def test_a_request_is_a_span_with_its_tokens(traced: Traced) -> None:
    response = await traced.front.post("/generate", GENERATE, headers={"x-request-id": "mine"})
    span = traced.request_span()
    assert span.name == "POST /generate"
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "url.path": "/generate",
        "http.response.status_code": 200,
        "textgen.request_id": "mine",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "textgen",
        "gen_ai.request.model": "test-model",
        "gen_ai.response.model": "test-model",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": int(response.headers["x-prompt-tokens"]),
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.response.time_to_first_chunk": attributes(span)["gen_ai.response.time_to_first_chunk"],
    }
    assert 0 < attributes(span)["gen_ai.response.time_to_first_chunk"] < 5
    assert span.status.code == Status.STATUS_CODE_UNSET
    (resource,) = traced.collector.resources
    assert (resource["service.name"], resource["service.version"]) == ("my-service", "1.2.3")


async def test_below_it_are_its_phases(traced: Traced) -> None:
    before = time.time_ns()
    await traced.front.post("/generate_stream", GENERATE)
    request = traced.request_span()
    phases = {span.name: span for span in traced.spans() if span.parent_span_id == request.span_id}
    validation, queue, inference = phases["validation"], phases["queue"], phases["inference"]
    assert len(traced.spans()) == 4
    assert before <= request.start_time_unix_nano <= validation.start_time_unix_nano <= validation.end_time_unix_nano
    assert queue.end_time_unix_nano - queue.start_time_unix_nano == pytest.approx(0.25e9, rel=1e-3)
    assert abs(queue.start_time_unix_nano - validation.end_time_unix_nano) < 1000
    assert abs(inference.start_time_unix_nano - queue.end_time_unix_nano) < 1000
    (event,) = inference.events
    assert event.name == "first_token"
    assert event.time_unix_nano <= request.end_time_unix_nano
    assert inference.end_time_unix_nano <= request.end_time_unix_nano


async def test_several_prompts_are_one_request_with_phases_for_each(traced: Traced) -> None:
    await traced.front.post("/v1/completions", {"prompt": ["hello", "the fox"], "max_tokens": 3})
    assert [span.name for span in traced.spans()].count("inference") == 2
    told = attributes(traced.request_span())
    assert (told["gen_ai.request.choice.count"], told["gen_ai.usage.output_tokens"]) == (2, 6)


async def test_the_client_s_trace_goes_on(traced: Traced) -> None:
    await traced.front.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=value"},
    )
    span = traced.request_span()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=value"
    assert attributes(span)["gen_ai.operation.name"] == "chat"
    assert {each.trace_id.hex() for each in traced.spans()} == {TRACE}


async def test_a_client_that_does_not_sample_is_not_traced(traced: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert (await traced.front.post("/generate", GENERATE, headers=headers)).status_code == 200
    assert traced.spans() == []


@pytest.mark.parametrize("nonsense", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "é"])
async def test_a_broken_context_begins_a_new_trace(traced: Traced, nonsense: str) -> None:
    headers = [(b"traceparent", nonsense.encode("latin-1"))]
    assert (await traced.front.client.post("/generate", json=GENERATE, headers=headers)).status_code == 200
    span = traced.request_span()
    assert span.parent_span_id == b""
    assert any(span.trace_id)


@pytest.mark.parametrize(
    ("error", "path", "status", "failed"),
    [
        (GenerationError("bad numbers"), "/generate", 424, True),
        (GenerationError("bad numbers"), "/generate_stream", 200, True),
        (None, "/generate", 422, False),
    ],
)
async def test_failures_of_ours_are_marked(
    traced: Traced, error: Exception | None, path: str, status: int, failed: bool
) -> None:
    body: dict[str, Any] = GENERATE
    if error:
        traced.front.engine.fail_after, traced.front.engine.error = 1, error
    else:
        body = {"inputs": ""}
    await traced.front.post(path, body)
    span = traced.request_span()
    assert attributes(span)["http.response.status_code"] == status
    assert (span.status.code == Status.STATUS_CODE_ERROR) == failed
    assert attributes(span).get("error.type") == ("generation" if failed else None)


async def test_lines_in_the_log_name_the_trace(traced: Traced) -> None:
    seen: list[dict[str, str]] = []
    encode = traced.front.context.encoder.encode

    async def spying(*args: Any) -> Any:
        seen.append(dict(log_fields.get()))
        return await encode(*args)

    traced.front.context.encoder.encode = spying  # type: ignore[method-assign]
    await traced.front.post("/generate", GENERATE, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    span = traced.request_span()
    assert seen[0]["trace_id"] == TRACE
    assert seen[0]["span_id"] == span.span_id.hex()
    assert seen[0]["request_id"] == attributes(span)["textgen.request_id"]


async def test_probes_are_not_traced(traced: Traced) -> None:
    for path in ("/health", "/metrics"):
        await traced.front.get(path)
    assert traced.spans() == []


def test_a_collector_that_is_away_holds_up_the_end_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.5)
    away = Tracing("127.0.0.1:1", "my-service", "1.2.3")
    away.begin("POST", {}).end()
    before = time.monotonic()
    away.close()
    assert time.monotonic() - before < 30


def test_the_libraries_are_asked_for_only_when_traces_are(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys, textgen_server.launcher; print(any('opentelemetry.sdk' in name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert Edge.load(parse([])).tracing is None
    monkeypatch.setitem(sys.modules, "textgen_server.api.tracing", None)
    with pytest.raises(StartupError, match=r"--otlp-endpoint needs OpenTelemetry's libraries .*textgen\[tracing\]"):
        Edge.load(parse(["--otlp-endpoint", "http://127.0.0.1:4317"]))
