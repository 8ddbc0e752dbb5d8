"""What a look at a service reads beside its children: what its pods refer to, and events about those that do not come
to be.

Called by reconcile.py.
"""

import asyncio
from collections.abc import Callable, Set
from datetime import datetime, timedelta

from textgen_operator.client import ApiError, Client
from textgen_operator.diagnosis import Evidence
from textgen_operator.diagnosis.finding import condition, name_of, time_of_event
from textgen_operator.diagnosis.scheduling import claims, is_being_created
from textgen_operator.kinds import CLAIMS, CONFIG_MAPS, EVENTS, PODS, SECRETS, STATEFUL_SETS, Manifest
from textgen_operator.references import Reference, references
from textgen_operator.render.metadata import selector_of_all_pods
from textgen_operator.resource import ObjectMeta
from textgen_operator.status import Obstacle
from textgen_operator.workloads import workload_of

OLDEST_EVENT = timedelta(minutes=20)
"""Controllers that fail to make a pod try again, and say so again, every 17 minutes at least."""

_MOST_LISTS = 5
"""Lists of events in one look: of a hundred pods that wait, a few tell why."""

_NOT_FOUND = {SECRETS: "SecretNotFound", CONFIG_MAPS: "ConfigMapNotFound", CLAIMS: "ClaimNotFound"}


class Observer:
    """Reads what explains the state of services.

    Args:
        client: the API server.
        now: the time.
    """

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client = client
        self._now = now

    async def missing(self, namespace: str, pod_spec: Manifest, made: Set[str] = frozenset()) -> Obstacle | None:
        """The first object that a pod would refer to in vain, or None.

        Asked before anything is written, so that no good pod is given up for one that cannot start.
        """
        wanted = [reference for reference in references(pod_spec) if reference.name not in made]
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

    async def evidence(self, service: ObjectMeta, workload: Manifest | None) -> Evidence:
        """The pods of a service, and what events say about those that do not come to be."""
        pods = await self._client.items(PODS.path(service.namespace), selector_of_all_pods(service))
        about = _in_question(workload, pods)
        listed = await asyncio.gather(*(self._warnings(service.namespace, kind, name) for kind, name in about))
        return Evidence(pods, [event for events in listed for event in events], self._now())

    async def _warnings(self, namespace: str, kind: str, name: str) -> list[Manifest]:
        """Recent Warning events about one object."""
        fields = f"type=Warning,involvedObject.kind={kind},involvedObject.name={name}"
        events = await self._client.items(EVENTS.path(namespace), fields=fields)
        since = (self._now() - OLDEST_EVENT).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [event for event in events if time_of_event(event) > since]


def _in_question(workload: Manifest | None, pods: list[Manifest]) -> list[tuple[str, str]]:
    """Kind and name of the objects whose events may say why pods do not come to be."""
    about: list[tuple[str, str]] = []
    if workload:
        about += [(STATEFUL_SETS.name, name) for name in workload_of(workload).lacking(workload, pods)]
    for pod in sorted(pods, key=name_of):
        if condition(pod, "PodScheduled").get("status") == "False":
            about += [("PersistentVolumeClaim", claim) for claim in claims(pod)]
        elif is_being_created(pod):
            about.append(("Pod", name_of(pod)))
    return list(dict.fromkeys(about))[:_MOST_LISTS]
