"""What the loop counts and times, for /metrics. Written on the loop's thread, read on any other."""

from dataclasses import dataclass, field
from typing import Literal

from textgen_server.histogram import Histogram
from textgen_server.telemetry import BATCH_SIZE_BUCKETS, DURATION_BUCKETS, SKIPPED_TOKENS_BUCKETS

Method = Literal["prefill", "decode"]


def _seconds() -> Histogram:
    return Histogram(DURATION_BUCKETS)


@dataclass
class StepStatistics:
    """Steps of one method. The histograms hold the seconds of those that did not fail.

    Attributes:
        inference: the whole step.
        forward: in the executor: model and sampler.
        decode: booking its tokens.
        filter: sending them off.
    """

    failures: int = 0
    inference: Histogram = field(default_factory=_seconds)
    forward: Histogram = field(default_factory=_seconds)
    decode: Histogram = field(default_factory=_seconds)
    filter: Histogram = field(default_factory=_seconds)

    def observe(self, started: float, planned: float, executed: float, committed: float, published: float) -> None:
        """Count a step by the times at which its parts ended."""
        self.inference.observe(published - started)
        self.forward.observe(executed - planned)
        self.decode.observe(committed - executed)
        self.filter.observe(published - committed)


@dataclass
class Counters:
    """The scheduler's totals since start.

    Attributes:
        admissions: counts a request again when it comes back after a preemption.
        skipped_tokens: right guesses of a request in a step that chose tokens for it.
    """

    admissions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    guessed_tokens: int = 0
    right_guesses: int = 0
    preemptions: int = 0
    skipped_tokens: Histogram = field(default_factory=lambda: Histogram(SKIPPED_TOKENS_BUCKETS))


@dataclass
class Statistics:
    """Of one loop.

    Attributes:
        methods: steps that compute prompt tokens, and those that only decode.
        joined: requests that joined in one step.
        join_seconds: of planning a step in which requests joined others that run.
    """

    methods: dict[Method, StepStatistics] = field(
        default_factory=lambda: {"prefill": StepStatistics(), "decode": StepStatistics()}
    )
    joined: Histogram = field(default_factory=lambda: Histogram(BATCH_SIZE_BUCKETS))
    join_seconds: Histogram = field(default_factory=_seconds)
