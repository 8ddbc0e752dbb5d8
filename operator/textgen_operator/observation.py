"""What a look at a service reads beside its children: what its pods refer to, events, and the log of a server that
starts. Only what is needed: nothing of this is read of a service that is well.

Called by reconcile.py.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.diagnosis import Evidence
from textgen_operator.diagnosis.finding import condition, containers, name_of, time_of_event
from textgen_operator.diagnosis.scheduling import claims, is_being_created
from textgen_operator.kinds import CLAIMS, CONFIG_MAPS, EVENTS, PODS, SECRETS, Manifest
from textgen_operator.references import Reference, references
from textgen_operator.render.metadata import pod_selector
from textgen_operator.resource import ObjectMeta
from textgen_operator.status import Obstacle
from textgen_operator.status.progress import Progress, reports

SECONDS_BETWEEN_LOGS = 9.5
"""Least time between two reads of the log of one service."""

LINES = 40
"""Last lines of a log that are read: progress comes every five seconds."""

OLDEST_EVENT = timedelta(minutes=20)
"""Controllers that fail to make a pod try again, and say so again, every 17 minutes at least."""

_NOT_FOUND = {SECRETS: "SecretNotFound", CONFIG_MAPS: "ConfigMapNotFound", CLAIMS: "ClaimNotFound"}


@dataclass(frozen=True)
class _Reading:
    """When the log of a service was read, and what it said."""

    at: float
    pod: str
    progress: Progress | None


class Observer:
    """Reads what explains the state of services.

    Args:
        client: the API server.
        now: the time.
        clock: seconds, monotonic.
    """

    def __init__(self, client: Client, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic):
        self._client = client
        self._now = now
        self._clock = clock
        self._readings: dict[str, _Reading] = {}
        """uid of a service that starts -> the last reading of its log."""

    async def missing(self, namespace: str, pod_spec: Manifest) -> Obstacle | None:
        """The first object that a pod would refer to in vain, or None.

        Asked before anything is written, so that no good pod is given up for one that cannot start.
        """
        wanted = references(pod_spec)
        there = await asyncio.gather(*(self._exists(namespace, reference) for reference in wanted))
        for reference, exists in zip(wanted, there, strict=True):
            if not exists:
                message = f"There is no {reference} in namespace {namespace}: create it; nothing is changed until then"
                return Obstacle(_NOT_FOUND[reference.kind], message)
        return None

    async def _exists(self, namespace: str, reference: Reference) -> bool:
        try:
            found = await self._client.get(reference.kind.path(namespace, reference.name))
        except ApiError as error:
            if error.status == 403:  # an installation may withhold the right; then the kubelet has to find out
                return True
            raise
        if found is None or reference.key is None:
            return found is not None
        return reference.key in {**found.get("data", {}), **found.get("binaryData", {})}

    async def evidence(self, service: ObjectMeta, statefulset: Manifest | None) -> Evidence:
        """The pods of a service, and what events say about those that do not come to be."""
        pods = await self._client.items(PODS.path(service.namespace), pod_selector(service))
        about = _in_question(statefulset, pods)
        listed = await asyncio.gather(*(self._warnings(service.namespace, kind, name) for kind, name in about))
        return Evidence(pods, [event for events in listed for event in events], self._now())

    async def _warnings(self, namespace: str, kind: str, name: str) -> list[Manifest]:
        """Recent Warning events about one object."""
        fields = f"type=Warning,involvedObject.kind={kind},involvedObject.name={name}"
        events = await self._client.items(EVENTS.path(namespace), fields=fields)
        since = (self._now() - OLDEST_EVENT).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [event for event in events if time_of_event(event) > since]

    async def progress(self, service: ObjectMeta, evidence: Evidence) -> Progress | None:
        """How far the first pod is that starts, or None when none does, or none says; at most ten seconds old."""
        uid = service.uid or ""
        pod = next((name_of(pod) for pod in sorted(evidence.pods, key=name_of) if _starts(pod)), None)
        if pod is None:
            self._readings.pop(uid, None)
            return None
        last = self._readings.get(uid)
        if last is None or last.pod != pod or self._clock() - last.at >= SECONDS_BETWEEN_LOGS:
            last = self._readings[uid] = _Reading(self._clock(), pod, await self._read(service.namespace, pod))
        return last.progress

    async def _read(self, namespace: str, pod: str) -> Progress | None:
        params = {"tailLines": str(LINES), "timestamps": "true"}
        try:
            log = await self._client.text(f"{PODS.path(namespace, pod)}/log", params)
        except (ApiError, aiohttp.ClientError, TimeoutError):
            return None  # the kubelet does not answer, or the container is gone: the next look may tell more
        return max(reports(pod, log), key=lambda report: str(report.time), default=None)

    def forget(self, uid: str) -> None:
        """The service is gone."""
        self._readings.pop(uid, None)


def _in_question(statefulset: Manifest | None, pods: list[Manifest]) -> list[tuple[str, str]]:
    """Kind and name of the objects whose events may say why pods do not come to be."""
    about: list[tuple[str, str]] = []
    if statefulset and statefulset.get("status", {}).get("replicas", 0) < statefulset["spec"]["replicas"]:
        about.append(("StatefulSet", statefulset["metadata"]["name"]))
    for pod in sorted(pods, key=name_of):
        if condition(pod, "PodScheduled").get("status") == "False":
            about += [("PersistentVolumeClaim", claim) for claim in claims(pod)]
        elif is_being_created(pod):
            about.append(("Pod", name_of(pod)))
    return list(dict.fromkeys(about))[:_MOST_LISTS]


_MOST_LISTS = 5
"""Lists of events in one look: of a hundred pods that wait, a few tell why."""


def _starts(pod: Manifest) -> bool:
    """Whether a container of the pod runs, but has not started yet in the sense of its startup probe."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        "running" in status.get("state", {}) and not status.get("started") and not status.get("ready")
        for status in containers(pod)
    )
