"""What was observed -> the status of the custom resource. Pure; called by reconcile.py.

Four conditions, all of them written each time, so that none can go stale:

    Accepted     the spec makes sense and its names are free
    Available    at least one pod answers, of whatever revision
    Progressing  pods are being started or replaced
    Ready        every pod of the current spec answers
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from textgen_operator.diagnosis import Diagnosis, diagnose
from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import pod_selector, url
from textgen_operator.resource import Condition, ObjectMeta, Status

ACCEPTED = "Accepted"
AVAILABLE = "Available"
PROGRESSING = "Progressing"
READY = "Ready"


@dataclass(frozen=True)
class Obstacle:
    """Why the spec could not be put into effect.

    Attributes:
        reason: InvalidSpec, NameConflict or ReconcileError.
        message: what is in the way, and what to do.
        accepted: whether the spec as such is fine.
    """

    reason: str
    message: str
    accepted: bool = False


@dataclass(frozen=True)
class Observed:
    """The children of a service, and what stood in their way.

    Attributes:
        statefulset: ours, as it is after this pass, or None.
        pods: those that its selector finds.
        shards: ranks in each replica; 0 when the spec is not valid.
        obstacle: None when everything asked for was applied.
    """

    statefulset: Manifest | None = None
    pods: list[Manifest] = field(default_factory=list)
    shards: int = 0
    obstacle: Obstacle | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The StatefulSet's own counts of pods."""
        counts = (self.statefulset or {}).get("status", {})
        return {name: counts.get(name, 0) for name in ("replicas", "readyReplicas", "updatedReplicas")}

    @property
    def wanted(self) -> int:
        """Pods that the StatefulSet should have."""
        return int(self.statefulset["spec"]["replicas"]) if self.statefulset else 0

    @property
    def rolled_out(self) -> bool:
        """Whether the pods that exist are those of the current spec, as many as asked for."""
        if self.statefulset is None:
            return False
        status = self.statefulset.get("status", {})
        return (
            status.get("observedGeneration") == self.statefulset["metadata"]["generation"]
            and status.get("currentRevision") == status.get("updateRevision")
            and self.counts["replicas"] == self.counts["updatedReplicas"] == self.wanted
        )

    @property
    def all_ready(self) -> bool:
        return self.rolled_out and self.counts["readyReplicas"] == self.wanted > 0


@dataclass(frozen=True)
class _Verdict:
    """A condition without its times."""

    type: str
    status: Literal["True", "False"]
    reason: str
    message: str


def status_of(service: Manifest, observed: Observed, now: datetime) -> Manifest:
    """The whole status.

    Args:
        service: the custom resource as the API server has it; its old conditions say since when they hold.
        observed: what its children look like.
        now: with a time zone; becomes lastTransitionTime of the conditions that turned.
    """
    meta = ObjectMeta.model_validate(service["metadata"])
    before = {old["type"]: old for old in service.get("status", {}).get("conditions", [])}
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = Status.model_validate(
        {
            "observedGeneration": meta.generation,
            **observed.counts,
            "selector": pod_selector(meta),
            "shards": observed.shards,
            "url": url(meta),
            "conditions": [_condition(verdict, meta, before, stamp) for verdict in _verdicts(observed)],
        }
    )
    return status.model_dump(by_alias=True)


def _condition(verdict: _Verdict, meta: ObjectMeta, before: dict[str, Manifest], stamp: str) -> Manifest:
    old = before.get(verdict.type, {})
    unchanged = old.get("status") == verdict.status
    condition = Condition.model_validate(
        {
            "type": verdict.type,
            "status": verdict.status,
            "observedGeneration": meta.generation,
            "lastTransitionTime": old["lastTransitionTime"] if unchanged else stamp,
            "reason": verdict.reason,
            "message": verdict.message,
        }
    )
    return condition.model_dump(by_alias=True)


def _verdicts(observed: Observed) -> list[_Verdict]:
    diagnosis = None if observed.all_ready else diagnose(observed.pods)
    return [
        _accepted(observed.obstacle),
        _available(observed),
        _progressing(observed, diagnosis),
        _ready(observed, diagnosis),
    ]


def _accepted(obstacle: Obstacle | None) -> _Verdict:
    if obstacle is None or obstacle.accepted:
        return _Verdict(ACCEPTED, "True", "Accepted", "The spec is valid")
    return _Verdict(ACCEPTED, "False", obstacle.reason, obstacle.message)


def _available(observed: Observed) -> _Verdict:
    ready = observed.counts["readyReplicas"]
    if ready:
        return _Verdict(AVAILABLE, "True", "ReadyPods", f"{ready} of {observed.wanted} pods answer")
    if observed.statefulset and observed.wanted == 0:
        return _Verdict(AVAILABLE, "False", "ScaledToZero", "replicas is 0")
    return _Verdict(AVAILABLE, "False", "NoReadyPods", "No pod answers")


def _progressing(observed: Observed, diagnosis: Diagnosis | None) -> _Verdict:
    if observed.obstacle:
        return _Verdict(PROGRESSING, "False", observed.obstacle.reason, observed.obstacle.message)
    if observed.wanted == 0 and observed.rolled_out:
        return _Verdict(PROGRESSING, "False", "ScaledToZero", "replicas is 0")
    if observed.all_ready:
        return _Verdict(PROGRESSING, "False", "RolloutComplete", "Every pod runs the current spec")
    if diagnosis and diagnosis.blocking:
        return _Verdict(PROGRESSING, "False", "RolloutBlocked", diagnosis.message)
    counts = observed.counts
    done = f"{counts['updatedReplicas']} of {observed.wanted} pods are up to date, {counts['readyReplicas']} answer"
    return _Verdict(PROGRESSING, "True", "RollingOut", done)


def _ready(observed: Observed, diagnosis: Diagnosis | None) -> _Verdict:
    if observed.obstacle:
        return _Verdict(READY, "False", observed.obstacle.reason, observed.obstacle.message)
    if observed.all_ready:
        return _Verdict(READY, "True", "Ready", f"All pods ({observed.wanted}) run the current spec and answer")
    if observed.statefulset and observed.wanted == 0:
        return _Verdict(READY, "False", "ScaledToZero", "replicas is 0")
    if diagnosis:
        return _Verdict(READY, "False", diagnosis.reason, diagnosis.message)
    return _Verdict(READY, "False", "RollingOut", "Pods are being started or replaced")
