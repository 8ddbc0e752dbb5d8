"""What servers say in their logs: how far a start is, which model it found, and how long it took.

A log is read while a server loads, every ten seconds, and once when it is ready. Called by reconcile.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.diagnosis.finding import containers, name_of
from textgen_operator.kinds import PODS, Manifest
from textgen_operator.render.container import CONTAINER_NAME, server_of
from textgen_operator.resource import ObjectMeta
from textgen_operator.status.progress import LOADING, LOCATED, Progress, reports
from textgen_operator.status.startup import ledger, newest_start, started_at

SECONDS_BETWEEN_READS = 9.5
"""Least time between two reads of the log of one service that loads."""

_LAST_LINES = {"tailLines": "40"}
"""Enough while it loads: progress comes every five seconds."""

_FIRST_BYTES = {"limitBytes": "1000000"}
"""Enough of the whole start, when it is over."""


@dataclass(frozen=True)
class Told:
    """What the log of a service's pods told.

    Attributes:
        progress: how far the first pod is that loads; None when none does, or none says.
        located: the model that was found, as the last server said that started or starts.
        startup: `status.startup`; None when no pod has started yet.
    """

    progress: Progress | None = None
    located: Progress | None = None
    startup: Manifest | None = None


@dataclass(frozen=True)
class _Reading:
    """When the log of a service was read, whose it was, and what it said."""

    at: float
    pod: str
    reports: list[Progress]


class PodLogs:
    """Reads logs, seldom.

    Args:
        client: the API server.
        clock: seconds, monotonic.
    """

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._readings: dict[tuple[str, str], _Reading] = {}
        """Namespace and name of a service that loads -> the last reading."""

    async def read(self, service: ObjectMeta, pods: list[Manifest], startup: Manifest | None) -> Told:
        """What there is to know.

        Args:
            service: whose pods these are.
            pods: as they are now.
            startup: the `status.startup` that is known; the log of that start is not read again.
        """
        found: list[Progress] = []
        newest = newest_start(pods)
        if newest and _is_new(newest, startup):
            found = await self._reports(service.namespace, newest, _FIRST_BYTES)
            startup = ledger(newest, found)
        loading = await self._of_loading(service, pods)
        located = [report for report in (*found, *loading) if report.stage == LOCATED]
        return Told(_newest(loading), located[-1] if located else None, startup)

    async def _of_loading(self, service: ObjectMeta, pods: list[Manifest]) -> list[Progress]:
        """The reports of the first pod that loads, at most ten seconds old."""
        key = (service.namespace, service.name)
        pod = next((pod for pod in sorted(pods, key=name_of) if _loads(pod)), None)
        if pod is None:
            self._readings.pop(key, None)
            return []
        last = self._readings.get(key)
        if last is None or last.pod != name_of(pod) or self._clock() - last.at >= SECONDS_BETWEEN_READS:
            found = await self._reports(service.namespace, pod, _LAST_LINES)
            last = self._readings[key] = _Reading(self._clock(), name_of(pod), found)
        return last.reports

    async def _reports(self, namespace: str, pod: Manifest, part: dict[str, str]) -> list[Progress]:
        name = name_of(pod)
        server = server_of(pod.get("status", {}).get("containerStatuses") or []).get("name", CONTAINER_NAME)
        params = {"container": server, "timestamps": "true", **part}
        try:
            log = await self._client.text(f"{PODS.path(namespace, name)}/log", params)
        except (ApiError, aiohttp.ClientError, TimeoutError):
            return []  # the kubelet does not answer, or the container is gone: a status without progress is no failure
        return list(reports(name, log))

    def forget(self, key: tuple[str, str]) -> None:
        """The service of that namespace and name is gone."""
        self._readings.pop(key, None)


def _is_new(pod: Manifest, startup: Manifest | None) -> bool:
    return startup is None or (startup.get("pod"), startup.get("startedAt")) != (name_of(pod), started_at(pod))


def _newest(found: list[Progress]) -> Progress | None:
    """The last report; the model that was found is the one to be loaded, of which nothing is there yet."""
    if not found:
        return None
    last = found[-1]
    if last.stage == LOCATED:
        return Progress(last.pod, LOADING, last.what, 0, last.total_bytes, time=last.time)
    return last


def _loads(pod: Manifest) -> bool:
    """Whether a container of the pod runs, but has not started yet in the sense of its startup probe."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        "running" in status.get("state", {}) and not status.get("started") and not status.get("ready")
        for status in containers(pod)
    )
