"""What each replica gets, and on which nodes it may run."""

from typing import ClassVar, Literal

from pydantic import Field

from textgen_operator.resource.affinity import Affinity
from textgen_operator.resource.types import LabelValue, Name, Quantity, ResourceAmount
from textgen_operator.rules import Part, Rule


class Gpu(Part):
    """GPUs of each replica."""

    count: int = Field(default=1, ge=0, le=16)
    """GPUs of each replica; 0 runs the model on the CPU."""

    resource_name: str = Field(
        default="nvidia.com/gpu", max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]*$"
    )
    """The extended resource that a GPU is, such as amd.com/gpu or nvidia.com/mig-3g.40gb."""

    products: list[LabelValue] = Field(default=[], max_length=16)
    """Products that will do, as in the node label nvidia.com/gpu.product, such as NVIDIA-H100-80GB-HBM3."""

    min_memory: Quantity | None = None
    """Memory that each GPU must have, by the node label nvidia.com/gpu.memory."""

    claim_template_name: Name | None = None
    """ResourceClaimTemplate that brings the GPUs of a replica (dynamic resource allocation); `resourceName` is not
    asked for then, and `count` says how many GPUs the claim brings."""

    runtime_class_name: Name | None = None
    """RuntimeClass of the pods, where GPUs need one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "gpu.products, gpu.minMemory and gpu.claimTemplateName choose GPUs: leave them out when gpu.count is 0",
            "self.count > 0 || !((has(self.products) && size(self.products) > 0) || "
            "has(self.minMemory) || has(self.claimTemplateName))",
            lambda gpu: gpu.count > 0 or not (gpu.products or gpu.min_memory or gpu.claim_template_name),
            ".count",
        ),
    )


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

    affinity: Affinity = Affinity()
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""

    scheduler_name: Name | None = None
    """Scheduler of the pods. Default: the cluster's own."""

    spread: Literal["Hostname", "Zone", "None"] = "Hostname"
    """What replicas are spread over, as far as there is room."""
