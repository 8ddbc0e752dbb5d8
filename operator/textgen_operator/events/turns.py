"""Turns of the status -> events."""

from collections.abc import Iterator

from textgen_operator.diagnosis import MODEL_REASONS
from textgen_operator.events.event import Event
from textgen_operator.kinds import Manifest

_WORDS = {
    "ImagePullBackOff": "ImagePullFailed",
    "OOMKilled": "ContainerOOMKilled",
    "CrashLoopBackOff": "CrashLoop",
    "ProbeFailing": "NotReady",
    **dict.fromkeys(MODEL_REASONS, "ModelDownloadFailed"),
    "InvalidCheckpoint": "InvalidCheckpoint",
}
"""Reason of a condition -> that of its event, where they differ: a condition is a state, an event a happening."""

_FETCHING = ("Downloading", "Converting")

_PATIENCE = ("Starting", "RollingOut", "ScaledToZero", "Suspended", "Ready")
"""Reasons for not being ready that are the course of things."""


def of_turns(before: Manifest, after: Manifest) -> Iterator[Event]:
    """What the status says now and did not say before."""
    old, new = _conditions(before), _conditions(after)
    yield from _failed(before, after)
    yield from _refused(before, after)
    yield from _rolled(before, after)
    if _turned(old, new, "ModelReady", "True") and old.get("ModelReady", {}).get("reason") in _FETCHING:
        yield Event("Normal", "ModelDownloaded", new["ModelReady"]["message"])
    if _turned(old, new, "MemorySufficient", "False"):
        yield Event("Warning", new["MemorySufficient"]["reason"], new["MemorySufficient"]["message"])
    if _turned(old, new, "Ready", "True"):
        yield Event("Normal", "BecameReady", new["Ready"]["message"])


def _conditions(status: Manifest) -> dict[str, Manifest]:
    return {condition["type"]: condition for condition in status.get("conditions", [])}


def _turned(old: dict[str, Manifest], new: dict[str, Manifest], kind: str, status: str) -> bool:
    return new.get(kind, {}).get("status") == status != old.get(kind, {}).get("status")


def _failed(before: Manifest, after: Manifest) -> Iterator[Event]:
    """A container ended: told each time that it does."""
    failure = after.get("lastFailure")
    was = before.get("lastFailure", {})
    if failure and (failure["time"], failure["count"]) != (was.get("time"), was.get("count")):
        yield Event("Warning", _WORDS.get(failure["reason"], failure["reason"]), failure["message"])


def _refused(before: Manifest, after: Manifest) -> Iterator[Event]:
    """The service is not ready, for a reason that it did not have before, or is not ready any more."""
    was, ready = (_conditions(status).get("Ready", {}) for status in (before, after))
    if ready.get("status") != "False" or ready["reason"] == was.get("reason"):
        return
    if ready["reason"] not in _PATIENCE:
        # How a container ended has been told already.
        if ready["message"] != after.get("lastFailure", {}).get("message"):
            reason = str(ready["reason"])
            yield Event("Warning", _WORDS.get(reason, reason), ready["message"])
    elif was.get("status") == "True" and ready["reason"] == "Starting":
        yield Event("Warning", "NotReady", ready["message"])


def _rolled(before: Manifest, after: Manifest) -> Iterator[Event]:
    """A rollout began, ended, or is held up; the first start of a service is none."""
    rolls, rolled = _rolls(after), _rolls(before)
    if rolls and before.get("updateRevision") not in (None, after["updateRevision"]):
        yield Event("Normal", "RolloutStarted", f"Pods of {after['currentRevision']} become {after['updateRevision']}")
    if rolled and not rolls and "updateRevision" in after:
        yield Event("Normal", "RolloutCompleted", f"Every pod is of {after['updateRevision']}")
    old, new = (_conditions(status).get("Progressing", {}) for status in (before, after))
    if rolls and new.get("reason") == "RolloutBlocked" and old.get("reason") != "RolloutBlocked":
        yield Event("Warning", "RolloutBlocked", str(new["message"]))
    if new.get("reason") == "ProgressDeadlineExceeded" != old.get("reason"):
        yield Event("Warning", "ProgressDeadlineExceeded", str(new["message"]))


def _rolls(status: Manifest) -> bool:
    """Whether there are two revisions; of a workload that was just made, none is known yet."""
    current, newest = status.get("currentRevision"), status.get("updateRevision")
    return None not in (current, newest) and current != newest
