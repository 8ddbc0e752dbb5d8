"""The phase: one word for people. Programs read the conditions."""

from textgen_operator.diagnosis import SCHEDULING_REASONS, Diagnosis
from textgen_operator.diagnosis.finding import containers
from textgen_operator.status import progress
from textgen_operator.status.observed import Observed

_WAITS_OUTSIDE = (*SCHEDULING_REASONS, "ImagePullBackOff")
"""Reasons that lie in the cluster: the server has not run yet."""


def phase_of(observed: Observed, diagnosis: Diagnosis | None) -> str:
    """The phase.

    Args:
        observed: what there is.
        diagnosis: what keeps it from being ready.
    """
    serves = observed.counts["readyReplicas"] > 0
    if observed.obstacle and observed.obstacle.reason == "Downloading":
        return "Updating" if serves else "Downloading"
    if observed.obstacle:
        return "Degraded" if serves else "Failed"
    if observed.workload and observed.wanted == 0:
        return "Suspended" if observed.suspended else "Idle"
    if observed.all_ready:
        return "Ready"
    if diagnosis and (diagnosis.blocking or diagnosis.reason == "ProbeFailing"):
        return "Degraded" if serves else "Pending" if diagnosis.reason in _WAITS_OUTSIDE else "Failed"
    if serves:
        return "Updating"
    return _of_start(observed)


def _of_start(observed: Observed) -> str:
    if observed.progress and observed.progress.stage != progress.LOADING:
        return "Downloading"
    runs = any("running" in status.get("state", {}) for pod in observed.pods for status in containers(pod))
    return "Loading" if runs else "Pending"
