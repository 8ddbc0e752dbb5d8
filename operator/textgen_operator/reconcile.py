"""One look at one service: read how things are, and make the writes that are still needed.

Level-triggered: nothing depends on what happened, only on what is there, so a look may be made at any time, any number
of times. Called by the controller's workers.
"""

import asyncio
import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from textgen_operator import apply, claims, foreign_scalers, leftovers, metrics, node_secret, warming
from textgen_operator.client import ApiError, Client
from textgen_operator.compare import was_applied
from textgen_operator.events import Change, events_of
from textgen_operator.foreign_scalers import ForeignScaler
from textgen_operator.informers import ServiceKey
from textgen_operator.inventory import NOTHING, Holdings
from textgen_operator.kinds import (
    AUTOSCALERS,
    CLAIMS,
    INFERENCE_SERVICES,
    JOBS,
    LEADER_WORKER_SETS,
    OPTIONAL,
    PRUNED,
    ROUTES,
    SCALED_OBJECTS,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    WORKLOADS,
    Kind,
    Manifest,
    kind_of,
)
from textgen_operator.observation import Observer
from textgen_operator.pod_logs import PodLogs
from textgen_operator.render import Defaults, render
from textgen_operator.render.metadata import FIELD_MANAGER, SERVICE_LABEL
from textgen_operator.render.pod import overrides
from textgen_operator.render.service import url
from textgen_operator.resource import ObjectMeta, TextGenerationService, problems
from textgen_operator.rollout.pinning import keep, keeper_of
from textgen_operator.rollout.steering import Course, Steering
from textgen_operator.status import Intent, Observed, Obstacle, next_look, status_of, unknown_status
from textgen_operator.status_writer import StatusWriter
from textgen_operator.workloads import pod_spec

LOOK_AGAIN = 15.0
"""Seconds until a look that waits for an object to go, which no watch tells of when it is not ours."""


PATIENCE = timedelta(minutes=1)
"""How long an API server that fails to answer may leave a status as it is; what it refuses, it refuses at once."""


class Disposition(enum.Enum):
    """What is to become of one rendered object."""

    APPLY = enum.auto()
    """Make sure that it is as rendered."""
    REPLACE = enum.auto()
    """It is ours, but differs in what cannot be changed."""
    WAIT = enum.auto()
    """It is on its way out, and the next may not be made before it is gone."""
    CONFLICT = enum.auto()
    """The name is taken by something that is not ours."""


def is_ours(live: Manifest, service: ObjectMeta) -> bool:
    """Whether an object belongs to this service, and not to an earlier one of the same name, or to someone else.

    An object that we applied for this name and that nobody controls any more was let go of (`kubectl delete
    --cascade=orphan`, or an owner reference removed by hand): it is taken back rather than fought over.
    """
    meta = live["metadata"]
    controllers = [owner["uid"] for owner in meta.get("ownerReferences", []) if owner.get("controller")]
    if controllers:
        return controllers == [service.uid]
    return meta.get("labels", {}).get(SERVICE_LABEL) == service.name and was_applied(live, FIELD_MANAGER)


def dispose(desired: Manifest, live: Manifest | None, service: ObjectMeta) -> Disposition:
    """What to do about a rendered object, given what has its name now."""
    if live is None:
        return Disposition.APPLY
    if not is_ours(live, service):
        return Disposition.CONFLICT
    if "deletionTimestamp" in live["metadata"]:
        return Disposition.WAIT
    return Disposition.REPLACE if apply.must_replace(desired, live) else Disposition.APPLY


@dataclass
class _Child:
    """One rendered object, and what has its name: at first what was observed, then what the writes made of it."""

    desired: Manifest
    live: Manifest | None
    disposition: Disposition
    before: Manifest | None = None
    removed: bool = False
    in_the_way: bool = False
    """Something has its name that is not ours, and that will go."""

    @property
    def carries_pods(self) -> bool:
        """Whether it is the workload."""
        return kind_of(self.desired) in WORKLOADS

    @property
    def change(self) -> Change:
        """What this look did to it."""
        lost = self.before is not None and not self.before["metadata"].get("ownerReferences")
        return Change(self.before, None if self.removed else self.live, adopted=lost)


class Reconciler:
    """Looks at services, one at a time or several at once, but never twice at the same.

    Args:
        client: the API server.
        defaults: what the installation decides.
        clock: the time, for conditions.
        holdings: what the cluster serves and holds.
    """

    def __init__(
        self,
        client: Client,
        defaults: Defaults,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        holdings: Holdings = NOTHING,
    ) -> None:
        self._client = client
        self._holdings = holdings
        self._defaults = defaults
        self._clock = clock
        self._observer = Observer(client, clock)
        self._logs = PodLogs(client)
        self._steering = Steering(client)
        self._statuses = StatusWriter(client, clock)
        self._failing_since: dict[ServiceKey, datetime] = {}
        """Services that cannot be looked at to the end -> since when."""

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Look at one service; the seconds after which to look again even if nothing changes, or None.

        Raises:
            ApiError: the API server refused something; the status says so where it could be written.
        """
        body = await self._client.get(SERVICES_OF_OURS.path(namespace, name))
        if body is None or "deletionTimestamp" in body["metadata"]:
            # Kubernetes removes what the service owns.
            self._logs.forget((namespace, name))
            self._failing_since.pop((namespace, name), None)
            metrics.forget_service(namespace, name)
            return None
        key = (namespace, name)
        try:
            again = await self._look(body)
        except ApiError as error:
            if error.is_read and self._lasts(key, error):
                await self._statuses.write(body, unknown_status(body, str(error), self._clock()))
            raise
        self._failing_since.pop(key, None)
        return again

    def _lasts(self, service: ServiceKey, error: ApiError) -> bool:
        """Whether a request fails in a way that time does not mend, or that it has not mended yet."""
        since = self._failing_since.setdefault(service, self._clock())
        return error.is_refusal or (error.status >= 500 and self._clock() - since > PATIENCE)

    async def _look(self, body: Manifest) -> float | None:
        try:
            service = TextGenerationService.model_validate(body)
            foreign = await self._foreign_scaler(service)
            if foreign is not None:
                service = foreign_scalers.left_to(foreign, service, await self._present(service.metadata))
            desired = render(service, self._defaults, self._holdings.served)
        except ValidationError as error:
            await self._report_invalid(body, error)
            return None
        return await self._put_into_effect(body, service, desired, foreign)

    async def _foreign_scaler(self, service: TextGenerationService) -> ForeignScaler | None:
        kinds = self._kinds_among(foreign_scalers.SCALERS)
        return await foreign_scalers.find(self._client, service, kinds, lambda live: is_ours(live, service.metadata))

    async def _report_invalid(self, body: Manifest, error: ValidationError) -> None:
        """What runs is left as it is."""
        meta = ObjectMeta.model_validate(body["metadata"])
        obstacle = Obstacle("InvalidSpec", "; ".join(map(str, problems(error))))
        await self._report(body, meta, Observed(await self._present(meta), obstacle=obstacle))

    async def _present(self, service: ObjectMeta) -> Manifest | None:
        """The workload that a service has, of whatever kind it is to be."""
        for kind in self._kinds_among(WORKLOADS):
            live = await self._client.get(kind.path(service.namespace, service.name))
            if live is not None and is_ours(live, service):
                return live
        return None

    def _kinds_among(self, kinds: Iterable[Kind]) -> list[Kind]:
        """Those that the cluster knows."""
        return [kind for kind in kinds if kind not in OPTIONAL or kind in self._holdings.served]

    async def _put_into_effect(
        self,
        body: Manifest,
        service: TextGenerationService,
        desired: list[Manifest],
        foreign: ForeignScaler | None,
    ) -> float | None:
        meta = service.metadata
        absent = tuple(kind for kind in map(kind_of, desired) if kind in OPTIONAL and kind not in self._holdings.served)
        obstacle = _unsupported(absent) or await self._introduce_nodes(service)
        children = await asyncio.gather(
            *(self._observe(manifest, meta) for manifest in desired if kind_of(manifest) not in absent)
        )
        course = await self._steer(service, children)
        obstacle = obstacle or _conflict(children) or await self._missing(meta, desired)
        failure: ApiError | None = None
        try:
            for child in await self._in_turn(meta, children) if obstacle is None else ():
                if child.carries_pods and (obstacle := _download(children)):
                    child.disposition = Disposition.WAIT
                try:
                    await self._write(child)
                except claims.ResizeRefused as error:
                    # A volume that is too small is no reason to leave the rest undone.
                    failure = error
            for pod in course.remove if course and obstacle is None else ():
                await apply.replace_pod(self._client, pod)
            if failure and obstacle is None:
                obstacle = Obstacle("VolumeResizeRefused", str(failure), accepted=True)
        except ApiError as error:
            if error.is_read or not self._lasts((meta.namespace, meta.name), error):
                raise
            obstacle, failure = Obstacle("ReconcileError", str(error), accepted=True), error
        observed = Observed(
            _live(children, *WORKLOADS) or await self._present(meta),
            shards=service.spec.ranks,
            obstacle=obstacle,
            intent=Intent(
                service, url(service), tuple(overrides(service, self._defaults)), absent, self._holdings.served, foreign
            ),
            scaler=_live(children, AUTOSCALERS, SCALED_OBJECTS),
            route=_live(children, ROUTES),
            changes=[child.change for child in children],
            course=course,
        )
        again = await self._report(body, meta, observed)
        if failure:
            raise failure
        all_applied = all(child.disposition is Disposition.APPLY for child in children)
        waits = [again, course.look_again if course else None, None if all_applied else LOOK_AGAIN]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    async def _steer(self, service: TextGenerationService, children: list[_Child]) -> Course | None:
        """Let the workload, where it is ours to make, have the pods that it should have at this moment."""
        keeper = next(child for child in children if child.desired["metadata"]["name"] == keeper_of(service.metadata))
        kept = keeper.live if keeper.disposition is not Disposition.CONFLICT else None
        for child in children:
            if child.carries_pods and child.disposition is not Disposition.CONFLICT:
                course = await self._steering.course(service, child.desired, child.live, kept)
                child.desired = course.manifest
                keep(course.manifest, keeper.desired)
                if not child.in_the_way:
                    child.disposition = dispose(child.desired, child.live, service.metadata)
                return course
        return None

    async def _in_turn(self, service: ObjectMeta, children: list[_Child]) -> list[_Child]:
        """The children that may be written, once what is left over has been deleted. Raises ApiError."""
        key = (service.namespace, service.name)
        desired = [child.desired for child in children]
        known = self._holdings.objects(key)
        # What serves is kept until what takes its place may be made.
        kept = WORKLOADS if _download(children) else ()
        kinds = {kind for kind in self._kinds_among(PRUNED) if kind not in kept}
        waiting = await leftovers.remove(self._client, key, desired, known, kinds, lambda live: is_ours(live, service))
        for child in children:
            if kind_of(child.desired) in waiting:
                child.disposition = Disposition.WAIT
        return children

    async def _introduce_nodes(self, service: TextGenerationService) -> Obstacle | None:
        """Give several nodes the secret by which they know each other; what is in the way, if something is."""
        if service.spec.nodes == 1:
            return None
        try:
            await node_secret.ensure(self._client, service.metadata)
        except ApiError as error:
            if not error.is_refusal:
                raise
            return Obstacle("ReconcileError", f"The Secret of the nodes cannot be made: {error}", accepted=True)
        return None

    async def _missing(self, service: ObjectMeta, desired: list[Manifest]) -> Obstacle | None:
        pods = [pod_spec(manifest) for manifest in desired if kind_of(manifest) in WORKLOADS]
        made = {manifest["metadata"]["name"] for manifest in desired if manifest["kind"] == CLAIMS.name}
        missing = [await self._observer.missing(service.namespace, pod, made) for pod in pods]
        return next(filter(None, missing), None)

    async def _observe(self, desired: Manifest, service: ObjectMeta) -> _Child:
        meta = desired["metadata"]
        live = await self._client.get(kind_of(desired).path(meta["namespace"], meta["name"]))
        if live is not None and await self._goes_with_ours(live, service):
            return _Child(desired, None, Disposition.WAIT, in_the_way=True)
        return _Child(desired, live, dispose(desired, live, service), live)

    async def _goes_with_ours(self, live: Manifest, service: ObjectMeta) -> bool:
        """Whether a workload of this service has made it, with which it goes: a LeaderWorkerSet makes a StatefulSet of
        its own name, KServe an Ingress and an HTTPRoute."""
        for controller in (each for each in live["metadata"].get("ownerReferences", []) if each.get("controller")):
            for kind in (LEADER_WORKER_SETS, INFERENCE_SERVICES):
                if (controller["kind"], controller["name"]) == (kind.name, service.name):
                    owner = await self._client.get(kind.path(service.namespace, service.name))
                    return owner is None or is_ours(owner, service)
        return False

    async def _write(self, child: _Child) -> None:
        """Do what is to be done about one object, and note it as it is then."""
        if child.disposition is Disposition.APPLY:
            if child.desired["kind"] == JOBS.name and child.live is not None:
                return  # a Job cannot be changed, and what it downloads is in its name
            write = claims.write_shared if child.desired["kind"] == CLAIMS.name else apply.apply
            child.live = await write(self._client, child.desired, child.live)
            if child.desired["kind"] == STATEFUL_SETS.name:
                await claims.settle(self._client, child.live)
        elif child.disposition is Disposition.REPLACE and child.live is not None:
            if child.carries_pods:
                await claims.clear(self._client, child.desired, child.live)
            await apply.remove_for_replacement(self._client, child.live)
            child.removed = True

    async def _report(self, body: Manifest, meta: ObjectMeta, seen: Observed) -> float | None:
        """Write the status; the seconds after which to look again, or None."""
        evidence = await self._observer.evidence(meta, seen.workload)
        told = await self._logs.read(meta, evidence.pods, body.get("status", {}).get("startup"))
        observed = replace(seen, evidence=evidence, progress=told.progress, located=told.located, startup=told.startup)
        status = status_of(body, observed, self._clock())
        for event in events_of(body, status, observed.changes):
            await apply.announce(self._client, body, event, self._clock())
        await self._statuses.write(body, status)
        metrics.note_service(body, status, observed.wanted, self._clock())
        return next_look(observed, status, self._clock())


def _unsupported(absent: Sequence[Kind]) -> Obstacle | None:
    """That there is nothing to carry the pods."""
    kind = next((kind for kind in absent if kind in WORKLOADS), None)
    return Obstacle("UnsupportedCluster", kind.absence) if kind else None


def _conflict(children: list[_Child]) -> Obstacle | None:
    """Names that something else has taken: then nothing is written, so that no half of a service comes to be."""
    taken = [child.desired for child in children if child.disposition is Disposition.CONFLICT]
    if not taken:
        return None
    names = ", ".join(f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in taken)
    return Obstacle("NameConflict", f"{names} exists and is not this service's: remove it, or rename the service")


def _live(children: list[_Child], *kinds: Kind) -> Manifest | None:
    """The first object of ours of these kinds."""
    for child in children:
        if kind_of(child.desired) in kinds and child.disposition is not Disposition.CONFLICT:
            return child.live
    return None


def _download(children: list[_Child]) -> Obstacle | None:
    """What of a download pods have to wait for; None when there is none, or when it is done."""
    job = _live(children, JOBS)
    return warming.obstacle(job) if job is not None else None
