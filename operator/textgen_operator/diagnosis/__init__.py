"""Pods and events -> the one reason why a service does not serve, in words that lead to the cure.

Pure; called by status/. A new reason is a function in the file of its concern, and a line in `_LOOKS`.
"""

from collections.abc import Callable, Iterator

from textgen_operator.diagnosis import containers, scheduling
from textgen_operator.diagnosis.finding import Diagnosis, Evidence, name_of
from textgen_operator.kinds import Manifest

__all__ = ["MODEL_REASONS", "SCHEDULING_REASONS", "Diagnosis", "Evidence", "diagnose"]

SCHEDULING_REASONS = ("QuotaExceeded", "PodRefused", "Unschedulable", "VolumePending", "PodTerminating")
"""Reasons for which a pod has no node, or no place."""

MODEL_REASONS = tuple(reason for reason in containers.REASONS.values() if reason != "GPUOutOfMemory")
"""Reasons for which there is no model to load."""

_LOOKS: tuple[Callable[[Manifest, Evidence], Iterator[Diagnosis]], ...] = (
    scheduling.unschedulable,
    scheduling.volume_not_mounted,
    containers.image_missing,
    containers.misconfigured,
    containers.crashed,
    containers.unhealthy,
    containers.starting,
)
"""From the gravest to the lightest."""


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """The gravest finding, or None when there is none. Of pods on their way out, only being stuck counts."""
    return next(_findings(evidence), None)


def _findings(evidence: Evidence) -> Iterator[Diagnosis]:
    pods = sorted(evidence.pods, key=name_of)
    yield from scheduling.not_created(evidence)
    for pod in pods:
        yield from scheduling.stuck_terminating(pod, evidence)
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    for look in _LOOKS:
        for pod in staying:
            yield from look(pod, evidence)
