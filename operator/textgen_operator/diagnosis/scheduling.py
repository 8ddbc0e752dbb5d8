"""Pods that do not exist, have no node, or do not leave one."""

from collections.abc import Iterator
from datetime import timedelta

from textgen_operator.diagnosis.finding import Diagnosis, Evidence, condition, containers, instant, name_of
from textgen_operator.kinds import Manifest

TERMINATING_LATE = timedelta(seconds=60)
"""How long after the end of its grace period a pod that is still there counts as stuck."""

_CLAIM = "persistentvolumeclaim"


def not_created(evidence: Evidence) -> Iterator[Diagnosis]:
    """The StatefulSet's controller was refused a pod: a quota, a limit range, an admission webhook."""
    message = evidence.last_event("StatefulSet")
    if message is None:
        return
    if "exceeded quota" in message:
        yield Diagnosis("QuotaExceeded", f"A quota of the namespace allows no more pods: {message}")
    else:
        yield Diagnosis("PodRefused", f"The API server takes no more pods: {message}")


def stuck_terminating(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """A pod that should have been gone: its node is dead. Only an administrator can know that it is."""
    due = pod["metadata"].get("deletionTimestamp")
    if due is not None and evidence.now - instant(due) > TERMINATING_LATE:
        node = pod.get("spec", {}).get("nodeName", "unknown")
        yield Diagnosis(
            "PodTerminating",
            f"Pod {name_of(pod)} should have ended at {due}, but node {node} does not confirm it, so it cannot be "
            "replaced: bring the node back, or delete it if it is gone for good",
        )


def unschedulable(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """No node takes the pod; the scheduler says why."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return
    said = scheduled.get("message", "")
    if _CLAIM in said.lower():
        why = _about_claims(pod, evidence)
        yield Diagnosis("VolumePending", f"Pod {name_of(pod)} waits for its volume: {said}{why}")
    else:
        yield Diagnosis("Unschedulable", f"No node takes pod {name_of(pod)}: {said}")


def _about_claims(pod: Manifest, evidence: Evidence) -> str:
    said = [evidence.last_event("PersistentVolumeClaim", name) for name in claims(pod)]
    return "".join(f"; {message}" for message in said if message)


def claims(pod: Manifest) -> list[str]:
    """Names of the volume claims that a pod mounts."""
    volumes = pod.get("spec", {}).get("volumes", [])
    return [volume[key]["claimName"] for volume in volumes for key in volume if key == "persistentVolumeClaim"]


def volume_not_mounted(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """The pod has a node, but one of its volumes cannot be had there."""
    message = evidence.last_event("Pod", name_of(pod))
    if message and is_being_created(pod):
        yield Diagnosis("VolumePending", f"Pod {name_of(pod)} waits for a volume: {message}")


def is_being_created(pod: Manifest) -> bool:
    """Whether a pod has a node, but no container of it has been made yet."""
    reasons = [status.get("state", {}).get("waiting", {}).get("reason") for status in containers(pod)]
    return bool(reasons) and all(reason in ("ContainerCreating", "PodInitializing") for reason in reasons)
