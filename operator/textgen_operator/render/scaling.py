"""The scaler: a HorizontalPodAutoscaler or KEDA's ScaledObject, on the custom resource's own scale.

It writes spec.replicas, as `kubectl scale` does, and the operator alone writes the StatefulSet's.
"""

from collections.abc import Iterator, Set

from textgen_operator.kinds import AUTOSCALERS, SCALED_OBJECTS, Kind, Manifest
from textgen_operator.render import interception
from textgen_operator.render.metadata import object_meta
from textgen_operator.resource import API_VERSION, KIND, TextGenerationService
from textgen_operator.resource.scaling import Autoscaling

QUEUED_METRIC = "tgi_queue_size"
RUNNING_METRIC = "tgi_batch_current_size"
DEFAULT_QUEUED = 4
"""Requests that wait at a replica, where the spec says no target."""


def render(service: TextGenerationService, served: Set[Kind] = frozenset()) -> list[Manifest]:
    """The scaler that the spec asks for; none while the service is suspended."""
    scaling = service.spec.autoscaling
    if scaling is None or service.spec.suspend:
        return []
    return [_autoscaler(service, scaling) if scaling.engine == "HPA" else _scaled_object(service, scaling, served)]


def _targets(scaling: Autoscaling) -> Iterator[tuple[str, int]]:
    """Each metric, and how much of it a replica should have."""
    queued, running = scaling.target.queued_per_replica, scaling.target.running_per_replica
    if queued is not None or running is None:
        yield QUEUED_METRIC, queued or DEFAULT_QUEUED
    if running is not None:
        yield RUNNING_METRIC, running
    elif scaling.min_replicas == 0:
        # Else a replica that keeps up with its requests, so that none waits, would count as idle.
        yield RUNNING_METRIC, interception.NEVER_MORE_REPLICAS


def _behavior(scaling: Autoscaling) -> Manifest:
    return {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_delay_seconds}}


def _target(service: TextGenerationService) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": KIND, "name": service.metadata.name}


def _autoscaler(service: TextGenerationService, scaling: Autoscaling) -> Manifest:
    metrics = [
        {
            "type": "Pods",
            "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": str(share)}},
        }
        for name, share in _targets(scaling)
    ]
    return {
        "apiVersion": AUTOSCALERS.api_version,
        "kind": AUTOSCALERS.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": metrics,
            "behavior": _behavior(scaling),
        },
    }


def _scaled_object(service: TextGenerationService, scaling: Autoscaling, served: Set[Kind]) -> Manifest:
    triggers = [_trigger(service, scaling, name, share) for name, share in _targets(scaling)]
    return {
        "apiVersion": SCALED_OBJECTS.api_version,
        "kind": SCALED_OBJECTS.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "cooldownPeriod": scaling.idle_after_seconds,
            # A replica that is still loading has not been idle.
            "initialCooldownPeriod": service.spec.startup.timeout_seconds,
            "triggers": [*triggers, *interception.triggers(service, served)],
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)}},
        },
    }


def _trigger(service: TextGenerationService, scaling: Autoscaling, metric: str, share: int) -> Manifest:
    meta = service.metadata
    number = "predictor-.+" if service.spec.kserve.publish != "None" else "[0-9]+"
    pods = f'namespace="{meta.namespace}",pod=~"{meta.name}-{number}"'
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": scaling.prometheus.address if scaling.prometheus else "",
            # Nothing is no error: with no pods there are no series.
            "query": f"sum({metric}{{{pods}}}) or vector(0)",
            "threshold": str(share),
        },
    }
