"""One look at one service: read how things are, and make the writes that are still needed.

Level-triggered: nothing depends on what happened, only on what is there, so a look may be made at any time, any number
of times. Called by the controller's workers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from textgen_operator import apply, claims, foreign_scalers, leftovers, metrics, node_secret
from textgen_operator.children import Child, conflict, download, live_of, observe, unsupported, write
from textgen_operator.client import ApiError, Client
from textgen_operator.events import events_of
from textgen_operator.foreign_scalers import ForeignScaler
from textgen_operator.informers import ServiceKey
from textgen_operator.inventory import NOTHING, Holdings
from textgen_operator.kinds import (
    AUTOSCALERS,
    CLAIMS,
    OPTIONAL,
    PRUNED,
    ROUTES,
    SCALED_OBJECTS,
    SERVICES_OF_OURS,
    WORKLOADS,
    Manifest,
    kind_of,
)
from textgen_operator.observation import Observer
from textgen_operator.ownership import Disposition, dispose, is_ours, served_among, workload_now
from textgen_operator.pod_logs import PodLogs
from textgen_operator.render import Defaults, render
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
                service = foreign_scalers.left_to(foreign, service, await self._workload(service.metadata))
            desired = render(service, self._defaults, self._holdings.served)
        except ValidationError as error:
            await self._report_invalid(body, error)
            return None
        return await self._put_into_effect(body, service, desired, foreign)

    async def _foreign_scaler(self, service: TextGenerationService) -> ForeignScaler | None:
        kinds = served_among(foreign_scalers.SCALERS, self._holdings.served)
        return await foreign_scalers.find(self._client, service, kinds, lambda live: is_ours(live, service.metadata))

    async def _report_invalid(self, body: Manifest, error: ValidationError) -> None:
        """What runs is left as it is."""
        meta = ObjectMeta.model_validate(body["metadata"])
        obstacle = Obstacle("InvalidSpec", "; ".join(map(str, problems(error))))
        await self._report(body, meta, Observed(await self._workload(meta), obstacle=obstacle))

    async def _workload(self, service: ObjectMeta) -> Manifest | None:
        return await workload_now(self._client, service, self._holdings.served)

    async def _put_into_effect(
        self,
        body: Manifest,
        service: TextGenerationService,
        desired: list[Manifest],
        foreign: ForeignScaler | None,
    ) -> float | None:
        meta = service.metadata
        absent = tuple(kind for kind in map(kind_of, desired) if kind in OPTIONAL and kind not in self._holdings.served)
        obstacle = unsupported(absent) or await node_secret.introduce(self._client, service)
        children = await asyncio.gather(
            *(observe(self._client, manifest, meta) for manifest in desired if kind_of(manifest) not in absent)
        )
        course = await self._steer(service, children)
        obstacle = obstacle or conflict(children) or await self._missing(meta, desired)
        failure: ApiError | None = None
        if obstacle is None:
            obstacle, failure = await self._make(meta, children, course)
        observed = Observed(
            live_of(children, *WORKLOADS) or await self._workload(meta),
            shards=service.spec.ranks,
            obstacle=obstacle,
            intent=Intent(
                service, url(service), tuple(overrides(service, self._defaults)), absent, self._holdings.served, foreign
            ),
            scaler=live_of(children, AUTOSCALERS, SCALED_OBJECTS),
            route=live_of(children, ROUTES),
            changes=[child.change for child in children],
            course=course,
        )
        again = await self._report(body, meta, observed)
        if failure:
            raise failure
        all_applied = all(child.disposition is Disposition.APPLY for child in children)
        waits = [again, course.look_again if course else None, None if all_applied else LOOK_AGAIN]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    async def _make(
        self, service: ObjectMeta, children: list[Child], course: Course | None
    ) -> tuple[Obstacle | None, ApiError | None]:
        """Make the writes that are needed; what is in the way of others, and what failed and is to be tried again."""
        obstacle: Obstacle | None = None
        failure: ApiError | None = None
        try:
            for child in await self._in_turn(service, children):
                if child.carries_pods and (obstacle := download(children)):
                    child.disposition = Disposition.WAIT
                try:
                    await write(self._client, child)
                except claims.ResizeRefused as error:
                    # A volume that is too small is no reason to leave the rest undone.
                    failure = error
            for pod in course.remove if course and obstacle is None else ():
                await apply.replace_pod(self._client, pod)
        except ApiError as error:
            if error.is_read or not self._lasts((service.namespace, service.name), error):
                raise
            return Obstacle("ReconcileError", str(error), accepted=True), error
        if failure and obstacle is None:
            obstacle = Obstacle("VolumeResizeRefused", str(failure), accepted=True)
        return obstacle, failure

    async def _steer(self, service: TextGenerationService, children: list[Child]) -> Course | None:
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

    async def _in_turn(self, service: ObjectMeta, children: list[Child]) -> list[Child]:
        """The children that may be written, once what is left over has been deleted. Raises ApiError."""
        key = (service.namespace, service.name)
        desired = [child.desired for child in children]
        known = self._holdings.objects(key)
        # What serves, and what it reads, is kept until what takes its place may be made.
        kept = (*WORKLOADS, CLAIMS) if download(children) else ()
        kinds = {kind for kind in served_among(PRUNED, self._holdings.served) if kind not in kept}
        waiting = await leftovers.remove(self._client, key, desired, known, kinds, lambda live: is_ours(live, service))
        for child in children:
            if kind_of(child.desired) in waiting:
                child.disposition = Disposition.WAIT
        return children

    async def _missing(self, service: ObjectMeta, desired: list[Manifest]) -> Obstacle | None:
        pods = [pod_spec(manifest) for manifest in desired if kind_of(manifest) in WORKLOADS]
        made = {manifest["metadata"]["name"] for manifest in desired if manifest["kind"] == CLAIMS.name}
        missing = [await self._observer.missing(service.namespace, pod, made) for pod in pods]
        return next(filter(None, missing), None)

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
