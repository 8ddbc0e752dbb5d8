"""Affinity of pods, as in a pod. That to nodes is spelled out, because the GPU's demands are added to it."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from textgen_operator.resource.types import LabelValue
from textgen_operator.rules import Part

AsInAPod = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, mode="validation")
]
"""Part of a pod's spec that is passed on as it is; the API server checks it with the pod."""


class NodeRequirement(Part):
    """What a label (or field) of a node must be."""

    key: str = Field(max_length=316)
    """The label."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared with the values."""

    values: list[LabelValue] = Field(default=[], max_length=64)
    """What it is compared with."""


class NodeTerm(Part):
    """Requirements that a node must meet, all of them."""

    match_expressions: list[NodeRequirement] = Field(default=[], max_length=16)
    """Of labels."""

    match_fields: list[NodeRequirement] = Field(default=[], max_length=16)
    """Of fields, such as metadata.name."""


class NodeSelector(Part):
    """Which nodes will do."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=16)
    """One of these terms must be met."""


class PreferredNodes(Part):
    """Nodes that would be better."""

    weight: int = Field(ge=1, le=100)
    """How much better."""

    preference: NodeTerm
    """Which ones."""


class NodeAffinity(Part):
    """On which nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that replicas may run on."""

    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] = Field(default=[], max_length=16)
    """Nodes that replicas rather run on."""


class Affinity(Part):
    """On which nodes, and beside which pods, as in a pod."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: AsInAPod | None = None
    """Pods that replicas want to be beside, as in a pod."""

    pod_anti_affinity: AsInAPod | None = None
    """Pods that replicas do not want to be beside, as in a pod."""
