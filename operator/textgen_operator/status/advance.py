"""Whether a rollout comes forward, and whether it has not for longer than rollout.progressDeadlineSeconds.

The clock runs while pods are being started or replaced, and not while that waits for somebody (`resting`) or for
something (an obstacle, such as a download that pods wait for). It begins anew with each step: a new generation or
revision, another pod that is up to date or ready, and whatever a server that starts for the first time says of its
download or load. What a server loads again after it ended counts for nothing. When the clock began is kept in the
status, so that it outlives the operator.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from textgen_operator.diagnosis.finding import containers, instant, is_ready, name_of
from textgen_operator.kinds import Manifest
from textgen_operator.resource import Spec
from textgen_operator.status.observed import Observed


def resting(observed: Observed) -> tuple[str, str] | None:
    """Why no pod is to be started or replaced now, if that is so: a reason and a sentence."""
    if observed.rolled_out and (found := unwanted(observed)):
        return found
    if observed.all_ready:
        return "RolloutComplete", "Every pod runs the current spec"
    held = _held(observed) if observed.tally.observed and not observed.rolled_out else None
    return ("Paused", held) if held else None


def unwanted(observed: Observed) -> tuple[str, str] | None:
    """Why there are to be no pods, if that is so: a reason and a sentence."""
    if observed.workload and observed.wanted == 0:
        return ("Suspended", "suspend is true") if observed.suspended else ("ScaledToZero", "replicas is 0")
    return None


def _held(observed: Observed) -> str | None:
    """What of the spec keeps pods from being replaced, if something does."""
    if observed.intent is None:
        return None
    rollout = observed.intent.service.spec.rollout
    if rollout.paused:
        return "rollout.paused is true: pods keep the spec that they have"
    up_to_date = sum(map(is_ready, observed.current_pods)) // observed.tally.pods_each
    if rollout.partition and up_to_date >= max(observed.wanted - rollout.partition, 0):
        return f"rollout.partition is {rollout.partition}: pods with a lower number keep the spec that they have"
    if rollout.strategy == "OnDelete" and observed.counts["readyReplicas"] == observed.wanted:
        return "rollout.strategy is OnDelete: a pod gets the current spec when somebody deletes it"
    return None


def progressed_at(observed: Observed, old: Manifest, generation: int, load: Manifest | None, stamp: str) -> str | None:
    """`status.progressedAt`: when the rollout last came forward; None when there is none.

    Args:
        observed: what there is.
        old: the status that was written last.
        generation: of the spec.
        load: `status.load`, as it is now.
        stamp: now, as Kubernetes writes it.
    """
    if observed.obstacle or resting(observed):
        return None
    since: str | None = old.get("progressedAt")
    return stamp if since is None or any(_steps(observed, old, generation, load)) else since


def _steps(observed: Observed, old: Manifest, generation: int, load: Manifest | None) -> Iterator[bool]:
    counts, revision = observed.counts, observed.revisions.get("updateRevision")
    yield generation != old.get("observedGeneration")
    yield revision != old.get("updateRevision")
    yield any(counts[name] > old.get(name, 0) for name in ("updatedReplicas", "readyReplicas"))
    yield _starts_first(observed) and _place(load) != _place(old.get("load"))


def _place(load: Manifest | None) -> tuple[object, ...]:
    return (load["stage"], load["percent"]) if load else ()


def _starts_first(observed: Observed) -> bool:
    """Whether a server loads that has never ended."""
    loading = [pod for pod in observed.pods if observed.progress and name_of(pod) == observed.progress.pod]
    return any(all(status.get("restartCount", 0) == 0 for status in containers(pod)) for pod in loading)


def overdue(observed: Observed, since: str | None, now: datetime) -> str | None:
    """That there has been no step for too long, if that is so.

    Args:
        observed: what there is.
        since: `status.progressedAt`.
        now: with a time zone.
    """
    if since is None or observed.intent is None:
        return None
    spec = observed.intent.service.spec
    if now - instant(since) <= _patience(spec):
        return None
    return f"Nothing has come forward since {since}: rollout.progressDeadlineSeconds is {_deadline(spec)}"


def _deadline(spec: Spec) -> int:
    return spec.rollout.progress_deadline_seconds


def _patience(spec: Spec) -> timedelta:
    """The deadline, and what a pod that is to go may take: to be idle, and to finish its requests."""
    drain = spec.drain.pre_stop_seconds + spec.drain.timeout_seconds
    return timedelta(seconds=_deadline(spec) + spec.rollout.wait_for_idle_seconds + drain)
