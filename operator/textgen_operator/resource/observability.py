"""What the service tells of itself, and to whom."""

from typing import Literal

from pydantic import Field

from textgen_operator.resource.types import LabelValue
from textgen_operator.rules import Part


class Metrics(Part):
    """How Prometheus finds the metrics, by way of the Prometheus operator."""

    monitor: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """Whether a PodMonitor is made. Auto: where the cluster knows that kind."""

    interval: str = Field(default="15s", max_length=16, pattern=r"^[1-9][0-9]*(ms|s|m|h)$")
    """Time between two scrapes."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=16)
    """More labels of the PodMonitor, by which a Prometheus may choose those that it reads."""


class Tracing(Part):
    """Where traces go."""

    endpoint: str = Field(max_length=512, pattern=r"^https?://")
    """Address of an OpenTelemetry collector that takes OTLP over gRPC, as http://collector:4317."""
