"""What this look wrote -> events."""

from collections.abc import Iterator

from textgen_operator.events.event import Change, Event
from textgen_operator.kinds import JOBS, WORKLOADS, Manifest
from textgen_operator.workloads import workload_of

_CARRY_PODS = {kind.name for kind in WORKLOADS}


def of_writes(service: Manifest, changes: list[Change]) -> Iterator[Event]:
    """One event for each kind of thing that was done, with the names of the objects."""
    done: dict[tuple[str, str], list[str]] = {}
    seen = service.get("status", {}).get("observedGeneration")
    drifted = seen == service["metadata"].get("generation")
    for change in changes:
        if change.is_one:
            reason, sentence = _what(change, drifted)
            done.setdefault((reason, sentence), []).append(_name(change.object))
        yield from _scaled(change)
    for (reason, sentence), names in done.items():
        yield Event("Normal", reason, sentence.format(", ".join(names)))


def _what(change: Change, drifted: bool) -> tuple[str, str]:
    if change.after is None and change.object["kind"] == JOBS.name:
        return "Updated", "Removed {} to make it anew, as the change needs"
    if change.after is None:
        return "StatefulSetRecreated", "Removed {} to make it anew, as the change needs; its pods serve on"
    if change.before is None:
        return ("DriftCorrected", "Made {} again") if drifted else ("Created", "Created {}")
    if change.adopted:
        return "Adopted", "Took back {}, which had lost its owner"
    return ("DriftCorrected", "Put {} back as the spec says") if drifted else ("Updated", "Updated {}")


def _scaled(change: Change) -> Iterator[Event]:
    if change.before is None or change.after is None or change.after.get("kind") not in _CARRY_PODS:
        return
    before, after = (workload_of(each).tally(each, ()).wanted for each in (change.before, change.after))
    if before != after:
        yield Event("Normal", "Scaled", f"From {before} to {after} replicas")


def _name(found: Manifest) -> str:
    return f"{found.get('kind', 'object')} {found['metadata']['name']}"
