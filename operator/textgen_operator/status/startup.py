"""How long the last start of a pod took, and where the time went: from the pod's own times, and those in its log."""

from collections.abc import Sequence
from datetime import datetime

from textgen_operator.diagnosis.finding import condition, instant, name_of
from textgen_operator.kinds import Manifest
from textgen_operator.render.container import server_of
from textgen_operator.status.progress import LOADING, LOCATED, Progress


def newest_start(pods: list[Manifest]) -> Manifest | None:
    """The ready pod whose container started last; None while none is ready."""
    ready = [pod for pod in pods if condition(pod, "Ready").get("status") == "True" and started_at(pod)]
    return max(ready, key=lambda pod: (started_at(pod), name_of(pod)), default=None)


def started_at(pod: Manifest) -> str:
    """When the server's container of a pod was started; empty while it is not running."""
    return str(_server(pod).get("state", {}).get("running", {}).get("startedAt", ""))


def _server(pod: Manifest) -> Manifest:
    """The status of the server's container, beside which others may have been put into the pod."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return server_of(statuses)


def ledger(pod: Manifest, reports: Sequence[Progress]) -> Manifest:
    """`status.startup` of a pod that is ready.

    Args:
        pod: the pod.
        reports: what its log says of its progress; stages that it does not tell of are left out.
    """
    started, ready = instant(started_at(pod)), instant(condition(pod, "Ready")["lastTransitionTime"])
    begun = instant(pod["metadata"]["creationTimestamp"]) if _is_first(pod) else started
    times: dict[str, tuple[datetime | None, datetime | None]] = {}
    scheduled = condition(pod, "PodScheduled").get("lastTransitionTime")
    if _is_first(pod) and scheduled:
        times = {"schedule": (begun, instant(scheduled)), "pull": (instant(scheduled), started)}
    located = _last(reports, LOCATED)
    loaded = _last(reports, LOADING)
    times |= {"download": (started, located), "load": (located, loaded), "warmup": (loaded, ready)}
    return {
        "pod": name_of(pod),
        "startedAt": started_at(pod),
        "lastSeconds": _seconds(begun, ready),
        "stages": {name: _seconds(a, b) for name, (a, b) in times.items() if a is not None and b is not None},
    }


def _is_first(pod: Manifest) -> bool:
    """Whether the container has been started once: the times of the pod are those of its first start."""
    return bool(_server(pod).get("restartCount", 0) == 0)


def _last(reports: Sequence[Progress], stage: str) -> datetime | None:
    return max((report.time for report in reports if report.stage == stage and report.time), default=None)


def _seconds(a: datetime, b: datetime) -> int:
    return max(0, round((b - a).total_seconds()))
