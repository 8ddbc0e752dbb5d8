"""What a diagnosis is, and what the files here read pods with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from textgen_operator.kinds import Manifest

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Diagnosis:
    """Why a pod does not serve.

    Attributes:
        reason: one stable word.
        message: names the pod and quotes what Kubernetes, or the server, says.
        blocking: whether it takes more than patience to get over it.
    """

    reason: str
    message: str
    blocking: bool = True


@dataclass(frozen=True)
class Evidence:
    """What is known about the pods of a service.

    Attributes:
        pods: those that its selector finds.
        events: Warning events about its StatefulSet, its claims and those pods; see observation.py for which are read.
        now: with a time zone.
    """

    pods: list[Manifest] = field(default_factory=list)
    events: list[Manifest] = field(default_factory=list)
    now: datetime = _LONG_AGO

    def last_event(self, kind: str, name: str | None = None) -> str | None:
        """The message of the last event about an object of this kind, and of this name if one is given."""
        about = [
            event
            for event in self.events
            if event["involvedObject"]["kind"] == kind and name in (None, event["involvedObject"]["name"])
        ]
        return max(about, key=time_of_event).get("message", "") if about else None


def name_of(pod: Manifest) -> str:
    """A pod's name."""
    return str(pod["metadata"]["name"])


def time_of_event(event: Manifest) -> str:
    """When an event last happened; the old and the new kind of event say it in different fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")


def condition(pod: Manifest, kind: str) -> Manifest:
    """A pod's condition; empty when it has none of that type."""
    found = (each for each in pod.get("status", {}).get("conditions", []) if each["type"] == kind)
    return next(found, {})


def is_ready(pod: Manifest) -> bool:
    """Whether Kubernetes sends requests to a pod."""
    return condition(pod, "Ready").get("status") == "True"


def containers(pod: Manifest) -> Iterator[Manifest]:
    """The status of each container, those that prepare the pod first."""
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def unready(pod: Manifest) -> list[Manifest]:
    """The status of each container that is not ready."""
    return [status for status in containers(pod) if not status.get("ready")]


def instant(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text)
