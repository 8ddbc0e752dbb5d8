"""What /metrics shows. Fed by text/generation.py through its `Observer`, read by routes/server.py.

Names, types and buckets of `tgi_*` are TGI's, so that its dashboards keep working.
"""

import asyncio
import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from textgen_server import telemetry as names
from textgen_server.errors import EngineUnavailable
from textgen_server.rpc.client import Engine, EngineInfo, EngineStatus
from textgen_server.text.generation import Generation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUS_SECONDS = 1.0  # how long a scrape waits for the engine

_DURATIONS = [0.00015 * 1.5**power for power in range(35)]
_GAPS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]
_TGI_TOTAL = re.compile(rb"\b(tgi_\w+)_total\b")


class Metrics:
    """Counters and histograms of requests, and the engine's numbers at scrape time.

    Args:
        max_total_tokens: the largest value that token histograms must resolve.
    """

    def __init__(self, max_total_tokens: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._engine = _EngineCollector()
        registry.register(self._engine)
        self._count = Counter(names.REQUEST_COUNT, "Prompts received", registry=registry)
        self._success = Counter(names.REQUEST_SUCCESS, "Generations finished", registry=registry)
        self._failure = Counter(
            names.REQUEST_FAILURE, "Requests failed, by cause; `dropped`: the client left", ["err"], registry=registry
        )

        def durations(name: str, help: str) -> Histogram:
            return Histogram(name, help, buckets=_DURATIONS, registry=registry)

        def tokens(name: str, help: str) -> Histogram:
            return Histogram(name, help, buckets=_powers_of_two(max_total_tokens), registry=registry)

        self._duration = durations(names.REQUEST_DURATION, "Seconds from arrival to the last token")
        self._validation = durations(names.REQUEST_VALIDATION_DURATION, "Seconds of checking and tokenizing")
        self._queue = durations(names.REQUEST_QUEUE_DURATION, "Seconds in the engine's queue")
        self._inference = durations(names.REQUEST_INFERENCE_DURATION, "Seconds of prefill and decode")
        self._per_token = durations(names.REQUEST_MEAN_TIME_PER_TOKEN, "Inference seconds per generated token")
        self._first_token = durations(names.TIME_TO_FIRST_TOKEN, "Seconds from arrival to the first token")
        self._gaps = _GapCollector()
        registry.register(self._gaps)
        self._generated = tokens(names.REQUEST_GENERATED_TOKENS, "Generated tokens per request")
        self._input_length = tokens(names.REQUEST_INPUT_LENGTH, "Prompt tokens per request")
        self._max_new = tokens(names.REQUEST_MAX_NEW_TOKENS, "Tokens that a request may generate")

    def received(self, prompts: int) -> None:
        self._count.inc(prompts)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self._gaps.observe(seconds)

    def finished(self, generation: Generation) -> None:
        times = generation.times
        self._success.inc()
        self._duration.observe(times.total)
        self._validation.observe(times.validation)
        self._queue.observe(times.queue_seconds)
        self._inference.observe(times.inference)
        self._per_token.observe(times.inference / generation.generated_tokens)
        self._generated.observe(generation.generated_tokens)
        self._input_length.observe(len(generation.engine_request.prompt))
        self._max_new.observe(generation.engine_request.max_new_tokens)

    def failed(self, label: str) -> None:
        self._failure.labels(label).inc()

    async def expose(self, engine: Engine) -> bytes:
        """The page in Prometheus' text format. Without the engine's part when the engine does not answer."""
        try:
            status = await asyncio.wait_for(engine.status(), STATUS_SECONDS)
        except (EngineUnavailable, TimeoutError):
            self._engine.latest = None
        else:
            self._engine.latest = (engine.info, status)
        # TGI's counters have no suffix; the library always writes one.
        return _TGI_TOTAL.sub(rb"\1", generate_latest(self._registry))


class _GapCollector(Collector):
    """The histogram of inter-token latency. The one that is fed per token, so without the library's locks: everything
    here happens on the event loop."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_GAPS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_GAPS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, _GAPS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(
            names.INTER_TOKEN_LATENCY, "Seconds between tokens of a request", buckets=buckets, sum_value=self._sum
        )


class _EngineCollector(Collector):
    """The engine's own counters and gauges, as of the scrape."""

    latest: tuple[EngineInfo, EngineStatus] | None = None

    def collect(self) -> Iterator[Metric]:
        if self.latest is None:
            return
        info, status = self.latest
        gauges = (
            (names.QUEUE_SIZE, "Requests waiting in the engine", status.waiting),
            (names.BATCH_CURRENT_SIZE, "Requests running in the engine", status.running),
            (names.BATCH_MAX_TOTAL_TOKENS, "Tokens that the KV cache holds", info.num_blocks * info.block_size),
            (names.KV_CACHE_USAGE, "Share of KV blocks held by requests", status.blocks_used / max(info.num_blocks, 1)),
        )
        counters = (
            (names.PROMPT_TOKENS, "Prompt tokens of admitted requests", status.prompt_tokens),
            (names.PREFIX_CACHED_TOKENS, "Prompt tokens found in the prefix cache", status.cached_tokens),
            (names.GENERATED_TOKENS, "Tokens generated", status.generated_tokens),
            (names.PREEMPTIONS, "Requests set back to be computed again", status.preemptions),
        )
        yield from (GaugeMetricFamily(name, help, value) for name, help, value in gauges)
        yield from (CounterMetricFamily(name, help, value) for name, help, value in counters)


def _powers_of_two(largest: int) -> list[float]:
    return [float(2**power) for power in range(largest.bit_length() + 1)]
