"""What /metrics shows. Fed by text/generation.py through its `Observer`, read by routes/server.py.

Names, types and buckets of `tgi_*` are TGI's, so that its dashboards keep working.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from textgen_server import telemetry as names
from textgen_server.api.engine_metrics import EngineCollector, buckets
from textgen_server.errors import EngineUnavailable, failure_labels
from textgen_server.histogram import Histogram as TokenHistogram
from textgen_server.rpc.client import Engine, EngineInfo
from textgen_server.text.generation import DROPPED, Generation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUS_SECONDS = 1.0  # how long a scrape waits for the engine

_GAPS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]
_TGI_TOTAL = re.compile(rb"\b(tgi_\w+)_total\b")


class Metrics:
    """Counters and histograms of requests, and the engine's numbers at scrape time.

    A request here is a generation: one prompt, or one of its samples. What has a label `adapter` has "" there for the
    model itself.
    """

    def __init__(self, info: EngineInfo) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._engine = EngineCollector(info)
        self._gaps = _GapCollector()
        registry.register(self._engine)
        registry.register(self._gaps)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, registry=registry)

        def durations(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(name, help, labels, buckets=names.DURATION_BUCKETS, registry=registry)

        def tokens(name: str, help: str) -> Histogram:
            return Histogram(name, help, buckets=_powers_of_two(info.max_total_tokens), registry=registry)

        self._count = counter(names.REQUEST_COUNT, "Requests received")
        self._success = counter(names.REQUEST_SUCCESS, "Requests finished")
        self._failure = counter(names.REQUEST_FAILURE, "Requests failed, by cause; `dropped`: the client left", "err")
        for label in (*failure_labels(), DROPPED):
            self._failure.labels(label)
        self._duration = durations(names.REQUEST_DURATION, "Seconds from arrival to the last token")
        self._validation = durations(names.REQUEST_VALIDATION_DURATION, "Seconds of checking and tokenizing")
        self._queue = durations(names.REQUEST_QUEUE_DURATION, "Seconds in the engine's queue")
        self._inference = durations(names.REQUEST_INFERENCE_DURATION, "Seconds of prefill and decode")
        self._per_token = durations(names.REQUEST_MEAN_TIME_PER_TOKEN, "Inference seconds per generated token")
        self._generated = tokens(names.REQUEST_GENERATED_TOKENS, "Generated tokens per request")
        self._input_length = tokens(names.REQUEST_INPUT_LENGTH, "Prompt tokens per request")
        self._max_new = tokens(names.REQUEST_MAX_NEW_TOKENS, "Tokens that a request may generate")
        self._first_token = durations(names.TIME_TO_FIRST_TOKEN, "Seconds from arrival to the first token", "adapter")
        self._in_flight = Gauge(names.REQUESTS_IN_FLIGHT, "Requests in work", ["adapter"], registry=registry)
        self._adapter_requests = counter(names.ADAPTER_REQUESTS, "Requests finished", "adapter")
        self._adapter_prompt = counter(names.ADAPTER_PROMPT_TOKENS, "Prompt tokens of these", "adapter")
        self._adapter_generated = counter(names.ADAPTER_GENERATED_TOKENS, "Generated tokens of these", "adapter")
        self._replies = counter(names.HTTP_REQUESTS, "Requests answered over HTTP", "method", "route", "status")
        for adapter in ("", *info.adapters):
            self._show(adapter)

    def _show(self, adapter: str) -> None:
        """Begin all series of `adapter` with 0."""
        self._gaps.of(adapter)
        self._first_token.labels(adapter)
        self._in_flight.labels(adapter)
        for counter in (self._adapter_requests, self._adapter_prompt, self._adapter_generated):
            counter.labels(adapter)

    def received(self, requests: int) -> None:
        self._count.inc(requests)

    def admitted(self, adapter: str) -> None:
        self._in_flight.labels(adapter).inc()

    def left(self, adapter: str) -> None:
        self._in_flight.labels(adapter).dec()

    def first_token(self, seconds: float, adapter: str) -> None:
        self._first_token.labels(adapter).observe(seconds)

    def next_token(self, seconds: float, adapter: str) -> None:
        self._gaps.of(adapter).observe(seconds)

    def finished(self, generation: Generation) -> None:
        times, adapter = generation.times, generation.request.adapter
        prompt_tokens = len(generation.engine_request.prompt)
        self._success.inc()
        self._duration.observe(times.total)
        self._validation.observe(times.validation)
        self._queue.observe(times.queue_seconds)
        self._inference.observe(times.inference)
        self._per_token.observe(times.inference / generation.generated_tokens)
        self._generated.observe(generation.generated_tokens)
        self._input_length.observe(prompt_tokens)
        self._max_new.observe(generation.engine_request.max_new_tokens)
        self._adapter_requests.labels(adapter).inc()
        self._adapter_prompt.labels(adapter).inc(prompt_tokens)
        self._adapter_generated.labels(adapter).inc(generation.generated_tokens)

    def failed(self, label: str) -> None:
        self._failure.labels(label).inc()

    def replied(self, method: str, route: str, status: int) -> None:
        """Count a reply over HTTP by the path of its route, in which parameters stand by their names; "" for no
        route."""
        # Clients may make up paths and methods; labels must not grow with them.
        self._replies.labels(method if route else "", route, status).inc()

    async def expose(self, engine: Engine) -> bytes:
        """The page in Prometheus' text format. Without the engine's part when the engine does not answer."""
        self._engine.info = engine.info
        try:
            self._engine.status = await asyncio.wait_for(engine.status(), STATUS_SECONDS)
        except (EngineUnavailable, TimeoutError):
            self._engine.status = None
        # TGI's counters have no suffix; the library always writes one.
        return _TGI_TOTAL.sub(rb"\1", generate_latest(self._registry))


class _GapCollector(Collector):
    """Histograms of inter-token latency. They are fed per token, so without the library's locks: everything here
    happens on the event loop."""

    def __init__(self) -> None:
        self._histograms: defaultdict[str, TokenHistogram] = defaultdict(lambda: TokenHistogram(_GAPS))
        self.of("")

    def of(self, adapter: str) -> TokenHistogram:
        return self._histograms[adapter]

    def collect(self) -> Iterator[Metric]:
        help = "Seconds between tokens of a request"
        family = HistogramMetricFamily(names.INTER_TOKEN_LATENCY, help, labels=["adapter"])
        for adapter, gaps in self._histograms.items():
            family.add_metric([adapter], buckets(_GAPS, gaps.counts), gaps.sum)
        yield family


def _powers_of_two(largest: int) -> list[float]:
    return [float(2**power) for power in range(largest.bit_length() + 1)]
