"""The engine's part of /metrics, told by its status at the scrape. Used by metrics.py."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from textgen_server import telemetry as names
from textgen_server.rpc.client import EngineInfo, EngineStatus

_STEP_HISTOGRAMS = (
    (names.BATCH_INFERENCE_DURATION, "Seconds of a step", "inference"),
    (names.BATCH_FORWARD_DURATION, "Seconds of a step in the model and the sampler", "forward"),
    (names.BATCH_DECODE_DURATION, "Seconds of booking a step's tokens", "decode"),
    (names.BATCH_FILTER_DURATION, "Seconds of sending a step's tokens off", "filter"),
)


def buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus' cumulative buckets of the counts of each bucket alone, the last of which has no bound."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


class EngineCollector(Collector):
    """The engine's counters, gauges and histograms.

    Attributes:
        info: of the engine.
        status: the latest; None while the engine does not answer, and then only its absence is shown.
    """

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self.status: EngineStatus | None = None

    def collect(self) -> Iterator[Metric]:
        up = self.status is not None
        yield GaugeMetricFamily(names.ENGINE_UP, "1 while the engine answers", int(up))
        yield self._build()
        if self.status is not None:
            yield from self._gauges(self.status)
            yield from self._counters(self.status)
            yield from _steps(self.status)
            yield from _joins(self.status)

    def _build(self) -> Metric:
        info = self.info
        labels = {
            "version": names.VERSION,
            "model_type": info.model_type,
            "dtype": info.dtype,
            "quantize": info.quantize,
            "device": info.device,
            "num_shard": str(info.num_shard),
            "attention_backend": info.attention_backend,
        }
        family = GaugeMetricFamily(names.BUILD_INFO, "What runs; always 1", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family

    def _gauges(self, status: EngineStatus) -> Iterator[Metric]:
        info = self.info
        gauges = (
            (names.QUEUE_SIZE, "Requests waiting in the engine", status.waiting),
            (names.BATCH_CURRENT_SIZE, "Requests running in the engine", status.running),
            (names.BATCH_CURRENT_MAX_TOKENS, "Tokens that running requests may come to", status.tokens_claimed),
            (names.BATCH_MAX_TOTAL_TOKENS, "Tokens that the KV cache holds", info.num_blocks * info.block_size),
            (names.KV_CACHE_USAGE, "Share of KV blocks held by requests", status.blocks_used / max(info.num_blocks, 1)),
        )
        yield from (GaugeMetricFamily(name, help, value) for name, help, value in gauges)

    def _counters(self, status: EngineStatus) -> Iterator[Metric]:
        counters = (
            (names.PROMPT_TOKENS, "Prompt tokens of admitted requests", status.prompt_tokens),
            (names.PREFIX_CACHED_TOKENS, "Prompt tokens found in the prefix cache", status.cached_tokens),
            (names.GENERATED_TOKENS, "Tokens generated", status.generated_tokens),
            (names.PREEMPTIONS, "Requests set back to be computed again", status.preemptions),
            (names.GUESSED_TOKENS, "Tokens guessed by --speculate", status.guessed_tokens),
            (names.RIGHT_GUESSES, "Guessed tokens that were right", int(status.skipped_tokens.sum)),
        )
        yield from (CounterMetricFamily(name, help, value) for name, help, value in counters)


def _steps(status: EngineStatus) -> Iterator[Metric]:
    """Steps, those that went well, those that failed, and the seconds of those that went well, by method."""
    total = CounterMetricFamily(names.BATCH_INFERENCE_COUNT, "Steps of the engine", labels=["method"])
    success = CounterMetricFamily(names.BATCH_INFERENCE_SUCCESS, "Steps that went well", labels=["method"])
    failure = CounterMetricFamily(names.BATCH_INFERENCE_FAILURE, "Steps that failed", labels=["method"])
    for steps in status.statistics:
        done = sum(steps.inference.counts)
        total.add_metric([steps.method], done + steps.failures)
        success.add_metric([steps.method], done)
        failure.add_metric([steps.method], steps.failures)
    yield from (total, success, failure)
    for name, help, part in _STEP_HISTOGRAMS:
        family = HistogramMetricFamily(name, help, labels=["method"])
        for steps in status.statistics:
            histogram = getattr(steps, part)
            family.add_metric([steps.method], buckets(names.DURATION_BUCKETS, histogram.counts), histogram.sum)
        yield family


def _joins(status: EngineStatus) -> Iterator[Metric]:
    """How requests join the running batch, and what speculation saves them."""
    joined, seconds = status.joined, status.join_seconds
    yield HistogramMetricFamily(
        names.BATCH_NEXT_SIZE,
        "Requests that joined in one step",
        buckets(names.BATCH_SIZE_BUCKETS, joined.counts),
        joined.sum,
    )
    concat = CounterMetricFamily(
        names.BATCH_CONCAT, "Steps in which requests joined others that ran", labels=["reason"]
    )
    concat.add_metric(["chunking"], sum(seconds.counts))
    yield concat
    duration = HistogramMetricFamily(names.BATCH_CONCAT_DURATION, "Seconds of planning such a step", labels=["method"])
    duration.add_metric(["decode"], buckets(names.DURATION_BUCKETS, seconds.counts), seconds.sum)
    yield duration
    skipped = status.skipped_tokens
    yield HistogramMetricFamily(
        names.REQUEST_SKIPPED_TOKENS,
        "Right guesses of a request in a step",
        buckets(names.SKIPPED_TOKENS_BUCKETS, skipped.counts),
        skipped.sum,
    )
