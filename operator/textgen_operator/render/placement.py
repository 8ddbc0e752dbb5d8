"""On which nodes a pod may run, and beside which others."""

from typing import Any

from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import selector
from textgen_operator.resource import Spec, TextGenerationService, Toleration


def render(service: TextGenerationService) -> dict[str, Any]:
    """The fields of the pod's spec that say where it runs."""
    spec = service.spec
    optional = {
        "topologySpreadConstraints": [_spread_over_nodes(service)],
        "nodeSelector": spec.scheduling.node_selector,
        "tolerations": _tolerations(spec),
        "priorityClassName": spec.scheduling.priority_class_name,
    }
    return {name: value for name, value in optional.items() if value}


def _spread_over_nodes(service: TextGenerationService) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(service.metadata)},
    }


def _tolerations(spec: Spec) -> list[Manifest]:
    """The user's, and the taint that GPU nodes usually carry, which is named as the resource."""
    tolerations = list(spec.scheduling.tolerations)
    if spec.gpu.count:
        tolerations.append(Toleration(key=spec.gpu.resource_name, operator="Exists", effect="NoSchedule"))
    return [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in tolerations]
