"""Whether KServe runs the pods, and what does not go together with that."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from textgen_operator.rules import Part, Rule

if TYPE_CHECKING:
    from textgen_operator.resource.spec import Spec


class KServe(Part):
    """How KServe knows the service."""

    publish: Literal["None", "InferenceService"] = "None"
    """None: not at all. InferenceService: the pods belong to an InferenceService instead of a StatefulSet, so that what
    knows KServe finds them; needs KServe 0.16 or newer, and switching replaces all pods."""


def _together(message: str, cel: str, holds: "Callable[[Spec], bool]", field: str) -> Rule:
    """A rule about services that are published."""
    return Rule(
        message,
        f"self.kserve.publish == 'None' || {cel}",
        lambda spec: spec.kserve.publish == "None" or holds(spec),
        field,
    )


KSERVE_RULES = (
    _together(
        "cache.type PerReplica does not go with kserve.publish, because pods of an InferenceService have no volume "
        "claims of their own: use Shared, Existing, HostPath or Ephemeral",
        "!has(self.cache) || !has(self.cache.type) || self.cache.type != 'PerReplica'",
        lambda spec: spec.cache.type != "PerReplica",
        ".cache.type",
    ),
    _together(
        "tls does not go with kserve.publish, because KServe reaches pods by HTTP: leave it to KServe's gateway",
        "!has(self.tls)",
        lambda spec: spec.tls is None,
        ".tls",
    ),
    _together(
        "network.route and network.ingress do not go with kserve.publish, because KServe makes its own of that name: "
        "leave them out",
        "!has(self.network) || (!has(self.network.route) && !has(self.network.ingress))",
        lambda spec: spec.network.route is None and spec.network.ingress is None,
        ".network",
    ),
    _together(
        "of rollout, kserve.publish has strategy Rolling, Surge and Recreate, and neither partition, paused nor "
        "waitForIdleSeconds, because KServe's Deployment replaces the pods",
        "!has(self.rollout) || (self.rollout.strategy != 'OnDelete' && self.rollout.partition == 0 && "
        "!self.rollout.paused && self.rollout.waitForIdleSeconds == 0)",
        lambda spec: (
            spec.rollout.strategy != "OnDelete"
            and not (spec.rollout.partition or spec.rollout.paused or spec.rollout.wait_for_idle_seconds)
        ),
        ".rollout",
    ),
    _together(
        "kserve.publish needs resources.limits.cpu and resources.limits.memory: KServe gives a server without them its "
        "own limits, by default one CPU and 2Gi",
        "(has(self.resources) && has(self.resources.limits) && 'cpu' in self.resources.limits && "
        "'memory' in self.resources.limits)",
        lambda spec: {"cpu", "memory"} <= spec.resources.limits.keys(),
        ".resources.limits",
    ),
)
"""Rules of the spec."""
