"""One event, and the object that it becomes."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from textgen_operator.kinds import EVENTS, Manifest
from textgen_operator.render.metadata import FIELD_MANAGER
from textgen_operator.resource import API_VERSION, KIND

LONGEST = 1000
"""Characters of a message; Kubernetes takes 1024 bytes of its own."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        type: what Kubernetes knows of: all is well, or look here.
        reason: one stable word.
        message: a sentence.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Change:
    """One object that a look wrote.

    Attributes:
        before: as it was; None when there was none.
        after: as it is; None when it was removed to be made anew.
        adopted: whether nobody owned it before.
    """

    before: Manifest | None
    after: Manifest | None
    adopted: bool = False

    @property
    def object(self) -> Manifest:
        """The object, as it is or was."""
        return self.after or self.before or {}

    @property
    def is_one(self) -> bool:
        """Whether anything was written at all."""
        if self.before is None or self.after is None:
            return self.before is not self.after
        return bool(self.before["metadata"].get("resourceVersion") != self.after["metadata"].get("resourceVersion"))


def name_of(service: Manifest, event: Event) -> str:
    """The name of an event's object: the same for the same thing that happens again to the same service."""
    told = "\n".join((service["metadata"]["uid"], event.reason, event.message))
    return f"{service['metadata']['name']}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def manifest_of(service: Manifest, event: Event, known: Manifest | None, time: str) -> Manifest:
    """The object of an event.

    Args:
        service: whom it happened to.
        event: what.
        known: the object as it is, if the same has happened before.
        time: now, as Kubernetes writes it.
    """
    meta = service["metadata"]
    known = known or {}
    about = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.name,
        "metadata": {"name": name_of(service, event), "namespace": meta["namespace"]},
        "involvedObject": about,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:LONGEST],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": known.get("firstTimestamp", time),
        "lastTimestamp": time,
        "count": known.get("count", 0) + 1,
    }
