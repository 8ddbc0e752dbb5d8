"""When to look at a service again, although no watch tells of a change."""

from datetime import datetime

from textgen_operator.diagnosis.finding import instant
from textgen_operator.kinds import Manifest
from textgen_operator.status.observed import Observed

WHILE_LOADING = 10.0
WHILE_BROKEN = 30.0
"""Seconds between looks at a service whose server loads, or that is not ready for another reason."""


def next_look(observed: Observed, status: Manifest, now: datetime) -> float | None:
    """The seconds until then; None when nothing is waited for.

    Args:
        observed: what there is.
        status: what was made of it.
        now: with a time zone.
    """
    if observed.obstacle:
        # What is missing is often made a moment after the service: look soon at first, and ever later.
        since = next(each["lastTransitionTime"] for each in status["conditions"] if each["type"] == "Accepted")
        return min(WHILE_BROKEN, max(1.0, (now - instant(since)).total_seconds()))
    if observed.all_ready or (observed.rolled_out and observed.wanted == 0):
        return None
    return WHILE_LOADING if status["phase"] in ("Loading", "Downloading") else WHILE_BROKEN
