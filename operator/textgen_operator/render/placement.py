"""On which nodes a pod may run, and beside which others."""

import math
from typing import Any

from textgen_operator import quantity
from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import selector
from textgen_operator.resource import Gpu, Spec, TextGenerationService, Toleration
from textgen_operator.resource.affinity import Affinity, NodeAffinity, NodeRequirement, NodeSelector, NodeTerm

_TOPOLOGY = {"Hostname": "kubernetes.io/hostname", "Zone": "topology.kubernetes.io/zone"}
_MIB = 2**20


def render(service: TextGenerationService) -> dict[str, Any]:
    """The fields of the pod's spec that say where it runs."""
    spec = service.spec
    scheduling = spec.scheduling
    optional = {
        "topologySpreadConstraints": _spread(service),
        "affinity": _affinity(spec),
        "nodeSelector": scheduling.node_selector,
        "tolerations": _tolerations(spec),
        "priorityClassName": scheduling.priority_class_name,
        "schedulerName": scheduling.scheduler_name,
        "runtimeClassName": spec.gpu.runtime_class_name,
    }
    return {name: value for name, value in optional.items() if value}


def _spread(service: TextGenerationService) -> list[Manifest]:
    key = _TOPOLOGY.get(service.spec.scheduling.spread)
    if key is None:
        return []
    constraint = {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(service.metadata)},
    }
    return [constraint]


def _affinity(spec: Spec) -> Manifest:
    """The user's, and what the GPUs must be."""
    affinity = spec.scheduling.affinity
    demands = _demands(spec.gpu)
    if demands:
        affinity = affinity.model_copy(update={"node_affinity": _demanding(affinity, demands)})
    found: Manifest = affinity.model_dump(by_alias=True, exclude_defaults=True)
    return found


def _demands(gpu: Gpu) -> list[NodeRequirement]:
    """What labels of nodes must be, as NVIDIA's feature discovery sets them."""
    demands = []
    if gpu.products:
        demands.append(NodeRequirement(key="nvidia.com/gpu.product", operator="In", values=gpu.products))
    if gpu.min_memory:
        # The label counts MiB, and Gt means more than.
        least = math.ceil(quantity.parse(gpu.min_memory) / _MIB)
        demands.append(NodeRequirement(key="nvidia.com/gpu.memory", operator="Gt", values=[str(least - 1)]))
    return demands


def _demanding(affinity: Affinity, demands: list[NodeRequirement]) -> NodeAffinity:
    """The affinity to nodes with the demands in every term, because a node needs to meet only one of them."""
    nodes = affinity.node_affinity or NodeAffinity()
    required = nodes.required_during_scheduling_ignored_during_execution
    terms = required.node_selector_terms if required else [NodeTerm()]
    selector_ = NodeSelector(
        nodeSelectorTerms=[
            term.model_copy(update={"match_expressions": [*term.match_expressions, *demands]}) for term in terms
        ]
    )
    return nodes.model_copy(update={"required_during_scheduling_ignored_during_execution": selector_})


def _tolerations(spec: Spec) -> list[Manifest]:
    """The user's, and the taint that GPU nodes usually carry, which is named as the resource."""
    tolerations = list(spec.scheduling.tolerations)
    if spec.gpu.count:
        tolerations.append(Toleration(key=spec.gpu.resource_name, operator="Exists", effect="NoSchedule"))
    return [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in tolerations]
