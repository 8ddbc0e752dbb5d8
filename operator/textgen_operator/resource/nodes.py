"""What does not go together with a replica on several nodes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from textgen_operator.rules import Rule

if TYPE_CHECKING:
    from textgen_operator.resource.spec import Spec


def _together(message: str, cel: str, holds: "Callable[[Spec], bool]", field: str) -> Rule:
    """A rule about services with several nodes."""
    return Rule(message, f"self.nodes == 1 || {cel}", lambda spec: spec.nodes == 1 or holds(spec), field)


NODES_RULES = (
    _together(
        "cache.type PerReplica does not go with nodes, because claims of followers would go with their leader's pod: "
        "use Shared, Existing, HostPath or Ephemeral",
        "!has(self.cache) || !has(self.cache.type) || self.cache.type != 'PerReplica'",
        lambda spec: spec.cache.type != "PerReplica",
        ".cache.type",
    ),
    _together(
        "kserve.publish does not go with nodes, because an InferenceService of one container has one pod for each "
        "replica: leave one of them out",
        "!has(self.kserve) || self.kserve.publish == 'None'",
        lambda spec: spec.kserve.publish == "None",
        ".kserve.publish",
    ),
    _together(
        "of rollout, nodes has neither strategy OnDelete nor waitForIdleSeconds, because the LeaderWorkerSet replaces "
        "the groups",
        "!has(self.rollout) || (self.rollout.strategy != 'OnDelete' && self.rollout.waitForIdleSeconds == 0)",
        lambda spec: spec.rollout.strategy != "OnDelete" and not spec.rollout.wait_for_idle_seconds,
        ".rollout",
    ),
)
"""Rules of the spec."""
