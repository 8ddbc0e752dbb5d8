"""What happened to a service, told once: events as `kubectl describe` shows them.

An event is a change: of the status since it was last written, or of an object that this look wrote. So there is none at
rest, and one look too many tells nothing twice. Pure; called by reconcile.py.
"""

from textgen_operator.events.event import Change, Event, manifest_of, name_of
from textgen_operator.events.turns import of_turns
from textgen_operator.events.writes import of_writes
from textgen_operator.kinds import Manifest

__all__ = ["Change", "Event", "events_of", "manifest_of", "name_of"]


def events_of(service: Manifest, status: Manifest, changes: list[Change]) -> list[Event]:
    """What happened since the last look.

    Args:
        service: the custom resource, with the status that was written last.
        status: the one that is about to be written.
        changes: what this look wrote.
    """
    before = service.get("status", {})
    return [*of_writes(service, changes), *of_turns(before, status)]
