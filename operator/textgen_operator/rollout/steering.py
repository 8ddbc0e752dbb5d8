"""The workload as it should be at this look: its pods pinned, its secrets hashed, its rollout paced.

Called by reconcile.py, before the workload is applied. Only a StatefulSet's rollout is paced here; other kinds have
controllers that do it.
"""

import copy
import json
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from textgen_operator.client import Client
from textgen_operator.compare import covers
from textgen_operator.kinds import PODS, STATEFUL_SETS, Manifest, kind_of
from textgen_operator.render.metadata import pod_selector
from textgen_operator.resource import Rollout, TextGenerationService
from textgen_operator.rollout import rotation
from textgen_operator.rollout.idleness import LOOK_AGAIN, Idleness
from textgen_operator.rollout.pace import Pace, Pod, next_to_go, pace, pods_of
from textgen_operator.rollout.pinning import pin, record
from textgen_operator.workloads import PODS_FROM, workload_of


@dataclass(frozen=True)
class Course:
    """What is to be done about the workload now.

    Attributes:
        manifest: to be applied.
        wanted: pods that the spec asks for; a rollout may have more or fewer for a while.
        version: of the operator that rendered its pods.
        pending: the version whose pods wait for the next change of the spec; empty when none does.
        remove: pods to be deleted when it is applied.
        look_again: seconds after which to look again although nothing changes, or None.
    """

    manifest: Manifest
    wanted: int
    version: str
    pending: str = ""
    remove: list[Manifest] = field(default_factory=list)
    look_again: float | None = None


class Steering:
    """Steers the rollouts of all services.

    Args:
        client: the API server.
        render_version: what pods that this operator renders are known by.
    """

    def __init__(self, client: Client, render_version: str = version("textgen")) -> None:
        self._client = client
        self._version = render_version
        self._idleness = Idleness()

    async def course(
        self, service: TextGenerationService, desired: Manifest, live: Manifest | None, keeper: Manifest | None = None
    ) -> Course:
        """What is to be done about the workload.

        Args:
            service: whose.
            desired: the workload as rendered.
            live: ours, as it is, or None.
            keeper: ours, what has a copy of the workload's record, as it is, or None.

        Raises:
            ApiError: the API server refused.
        """
        rollout = service.spec.rollout
        roll = rollout.on_operator_upgrade == "Roll"
        pinned = pin(desired, record(live or keeper), service.spec, self._version, roll=roll)
        manifest = copy.deepcopy(pinned.manifest)
        was = workload_of(live).templates(live)[0] if live else keeper
        reads_secrets = await self._mark_secrets(service, manifest, was)
        workload_of(manifest).seal(manifest)
        again = rotation.LOOK_AGAIN if reads_secrets else None
        course = Course(manifest, service.spec.pods_wanted, pinned.version, pinned.pending, look_again=again)
        return await self._paced(service, course, live) if kind_of(desired) == STATEFUL_SETS else course

    async def _paced(self, service: TextGenerationService, course: Course, live: Manifest | None) -> Course:
        """The course with the next step of a StatefulSet's rollout."""
        step = await self._step(service, course.manifest, live)
        course.manifest["spec"] |= {"replicas": step.replicas, "updateStrategy": step.update_strategy}
        waits = service.spec.rollout.wait_for_idle_seconds and live is not None and not _at_rest(live)
        return replace(course, remove=list(step.remove), look_again=LOOK_AGAIN if waits else course.look_again)

    async def _mark_secrets(self, service: TextGenerationService, manifest: Manifest, was: Manifest | None) -> bool:
        """Put the hash of the secrets into the annotations of pods; whether they read any. `was` is annotated with the
        hash until now."""
        workload = workload_of(manifest)
        pod = workload.templates(manifest)[0]["spec"]
        found = await rotation.checksum(self._client, service.metadata.namespace, pod)
        marked = None if was is None else _annotations(was).get(rotation.ANNOTATION)
        keeps = found is None or (service.spec.rollout.on_secret_change == "Keep" and was is not None)
        # What is there stays: neither taking the mark away nor setting it is worth a restart.
        if mark := marked if keeps else found:
            workload.mark(manifest, rotation.ANNOTATION, mark)
        return found != ""

    async def _step(self, service: TextGenerationService, manifest: Manifest, live: Manifest | None) -> Pace:
        rollout, wanted = service.spec.rollout, manifest["spec"]["replicas"]
        new_template = live is not None and _is_of_another_template(manifest, live)
        if live is None or rollout.paused or (_at_rest(live) and not new_template):
            return pace(rollout, wanted, wanted)
        if not new_template and not _is_observed(live):
            # What the status says is about an earlier spec: nothing is decided by it.
            return _unchanged(rollout, wanted, live)
        meta = service.metadata
        pods = pods_of(live, await self._client.items(PODS.path(meta.namespace), pod_selector(meta)), new_template)
        if new_template:
            # Pods that are deleted before it is applied would come back as they were.
            return replace(pace(rollout, wanted, live["spec"]["replicas"], pods), remove=())
        may_go = await self._may_go(service, pods)
        return pace(rollout, wanted, live["spec"]["replicas"], pods, lambda pod: pod["metadata"]["uid"] in may_go)

    async def _may_go(self, service: TextGenerationService, pods: list[Pod]) -> set[str]:
        """uids of the pods that are idle; only the next one to go is asked."""
        patience = service.spec.rollout.wait_for_idle_seconds
        next_ones = next_to_go(pods) if patience else []
        tls = service.spec.tls is not None
        return {pod["metadata"]["uid"] for pod in next_ones if await self._idleness.may_go(pod, patience, tls=tls)}


def _annotations(template: Manifest) -> dict[str, str]:
    return template["metadata"].get("annotations") or {}


def _is_observed(live: Manifest) -> bool:
    return bool(live.get("status", {}).get("observedGeneration") == live["metadata"].get("generation"))


def _at_rest(live: Manifest) -> bool:
    """Whether every pod that the StatefulSet should have is there, is of its revision, and serves."""
    counts = {live.get("status", {}).get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")}
    return _is_observed(live) and counts == {live["spec"]["replicas"]}


def _is_of_another_template(manifest: Manifest, live: Manifest) -> bool:
    """Whether pods are to be made from another template than the one applied last; what drifted is not another."""
    new, old = manifest["spec"]["template"], live["spec"]["template"]
    was, now = record(live), json.loads(manifest["metadata"]["annotations"][PODS_FROM])
    if was is None:
        return not covers(new, old)
    marks = [_annotations(template).get(rotation.ANNOTATION) for template in (new, old)]
    return bool(was["template"] != now["template"] or marks[0] != marks[1])


def _unchanged(rollout: Rollout, wanted: int, live: Manifest) -> Pace:
    """What the StatefulSet has been told to do until now, as far as it may differ from what is wanted."""
    varies = rollout.strategy in ("Surge", "Recreate")
    strategy = live["spec"].get("updateStrategy", {})
    partition = strategy.get("rollingUpdate", {}).get("partition", 0) if strategy.get("type") != "OnDelete" else None
    return Pace(live["spec"]["replicas"] if varies else wanted, partition)
