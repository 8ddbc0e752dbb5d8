"""What each replica gets, and on which nodes it may run."""

from typing import Literal

from pydantic import Field

from textgen_operator.resource.types import LabelValue, Name, ResourceAmount
from textgen_operator.rules import Part


class Gpu(Part):
    """GPUs of each replica."""

    count: int = Field(default=1, ge=0, le=16)
    """GPUs of each replica; 0 runs the model on the CPU."""

    resource_name: str = Field(
        default="nvidia.com/gpu", max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]*$"
    )
    """The extended resource that a GPU is, such as amd.com/gpu or nvidia.com/mig-3g.40gb."""


class Resources(Part):
    """CPU and memory of each replica, as in a pod. GPUs are asked for with `gpu`."""

    requests: dict[str, ResourceAmount] = Field(default={}, max_length=16)
    """Amounts that a node must have free."""

    limits: dict[str, ResourceAmount] = Field(default={}, max_length=16)
    """Amounts that a replica may use. Shared memory counts against the memory."""


class Toleration(Part):
    """A taint of nodes that replicas put up with, as in a pod."""

    key: str | None = Field(default=None, max_length=316)
    """The taint's key; left out with operator Exists, every taint."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""

    value: LabelValue | None = None
    """The taint's value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Default: all."""

    toleration_seconds: int | None = Field(default=None, ge=0)
    """With effect NoExecute, seconds until the pod is evicted all the same."""


class Scheduling(Part):
    """On which nodes replicas may run."""

    node_selector: dict[str, LabelValue] = Field(default={}, max_length=16)
    """Labels that a node must have."""

    tolerations: list[Toleration] = Field(default=[], max_length=16)
    """Taints that replicas put up with, beside the one named as the GPU resource."""

    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
