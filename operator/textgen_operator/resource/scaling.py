"""How many replicas there are, and how many may be away."""

from typing import ClassVar, Literal

from pydantic import Field

from textgen_operator.resource.types import CountOrPercent, Name
from textgen_operator.rules import Part, Rule


class ScalingTarget(Part):
    """How much each replica should have to do."""

    queued_per_replica: int | None = Field(default=None, ge=1, le=100000)
    """Requests that wait. Default: 4, unless runningPerReplica is given."""

    running_per_replica: int | None = Field(default=None, ge=1, le=100000)
    """Requests that run."""


class Prometheus(Part):
    """Where KEDA reads the metrics."""

    address: str = Field(max_length=512, pattern=r"^https?://")
    """URL of Prometheus, as http://prometheus.monitoring:9090."""


class HttpAddOn(Part):
    """KEDA's HTTP add-on, which holds requests while there is no replica; used where it is installed."""

    namespace: Name = "keda"
    """Its namespace."""


class Autoscaling(Part):
    """How the number of replicas follows the load. The scaler writes spec.replicas, by the resource's scale."""

    engine: Literal["HPA", "KEDA"] = "HPA"
    """HPA: a HorizontalPodAutoscaler, which needs the server's metrics in the custom metrics API (as by
    prometheus-adapter). KEDA: a ScaledObject, which needs KEDA and a Prometheus."""

    min_replicas: int = Field(default=1, ge=0, le=1000)
    """Fewest replicas. 0 needs KEDA, and its HTTP add-on if requests are to wait for the first replica."""

    max_replicas: int = Field(ge=1, le=1000)
    """Most replicas."""

    target: ScalingTarget = ScalingTarget()
    scale_down_delay_seconds: int = Field(default=300, ge=30, le=3600)
    """Seconds of less load before replicas are taken away. Longer than a replica takes to start saves restarts."""

    idle_after_seconds: int = Field(default=300, ge=30, le=86400)
    """With minReplicas 0, seconds without a request before the last replica goes."""

    http_add_on: HttpAddOn = HttpAddOn()
    prometheus: Prometheus | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "autoscaling.minReplicas must not exceed autoscaling.maxReplicas",
            "self.minReplicas <= self.maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            ".minReplicas",
        ),
        Rule(
            "autoscaling.minReplicas 0 needs autoscaling.engine KEDA: a HorizontalPodAutoscaler cannot start the first "
            "replica",
            "self.minReplicas > 0 || self.engine == 'KEDA'",
            lambda scaling: scaling.min_replicas > 0 or scaling.engine == "KEDA",
            ".minReplicas",
        ),
        Rule(
            "autoscaling.prometheus.address is where KEDA reads the metrics: give it with engine KEDA, and leave it "
            "out with HPA",
            "has(self.prometheus) == (self.engine == 'KEDA')",
            lambda scaling: (scaling.prometheus is not None) == (scaling.engine == "KEDA"),
            ".prometheus",
        ),
    )


class Disruption(Part):
    """How many replicas may be away at once when nodes are drained."""

    max_unavailable: CountOrPercent = 1
    """A number of replicas, or a share as "25%". With one replica there is no such limit, because it would keep its
    node from being drained."""
