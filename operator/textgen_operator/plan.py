"""`textgen-operator plan FILE`: what applying a service would change, and which pods it would restart.

Nothing is written: the API server itself says what its objects would be, in dry runs of the requests that the operator
would send. Called by cluster_commands.py, with the client of the person who asks.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from textgen_operator.apply import must_replace
from textgen_operator.client import ApiError, Client
from textgen_operator.compare import covers
from textgen_operator.kinds import (
    OPTIONAL,
    PRUNED,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    WORKLOADS,
    Kind,
    Manifest,
    kind_of,
)
from textgen_operator.leftovers import is_retained
from textgen_operator.ownership import Disposition, dispose, goes_with_ours, is_ours, workload_now
from textgen_operator.render import Defaults, render
from textgen_operator.render.container import server_of
from textgen_operator.render.metadata import FIELD_MANAGER, SERVICE_LABEL
from textgen_operator.resource import ObjectMeta, TextGenerationService
from textgen_operator.rollout.pinning import keep, keeper_of
from textgen_operator.rollout.steering import Steering
from textgen_operator.workloads import pod_spec, workload_of


@dataclass(frozen=True)
class Step:
    """What would become of one object.

    Attributes:
        what: kind and name.
        action: create, update, replace, delete, blocked, or unchanged.
        details: of an update the paths that change; of what is blocked, why.
        restarts: whether the pods of it would be replaced.
    """

    what: str
    action: str
    details: tuple[str, ...] = ()
    restarts: bool = False


@dataclass(frozen=True)
class Plan:
    """What applying a service would do.

    Attributes:
        service: as it would be.
        refusal: the API server's words if it would not take the resource; empty if it would.
        steps: one for each object.
        workload: as it is; None when there is none.
    """

    service: TextGenerationService
    refusal: str
    steps: list[Step]
    workload: Manifest | None

    @property
    def restarts(self) -> bool:
        """Whether pods would be replaced."""
        return any(step.restarts for step in self.steps)

    @property
    def moves(self) -> bool:
        """Whether another kind of object would carry the pods."""
        return any(step.restarts and step.action == "delete" for step in self.steps)

    @property
    def is_blocked(self) -> bool:
        """Whether something stands in its way."""
        return bool(self.refusal) or any(step.action == "blocked" for step in self.steps)


async def make_plan(client: Client, service: TextGenerationService, image: str | None) -> Plan:
    """Ask what would happen.

    Args:
        client: of somebody who may write what the operator writes; only dry runs are sent.
        service: what would be applied.
        image: the server's, for services without one; by default what runs now.

    Raises:
        ApiError: the API server does not let us look.
    """
    meta = service.metadata
    live = await client.get(SERVICES_OF_OURS.path(meta.namespace, meta.name))
    refusal = await _refusal(client, service, live)
    if live is not None:
        service = service.model_copy(update={"metadata": ObjectMeta.model_validate(live["metadata"])})
    served = {kind for kind in OPTIONAL if await client.get(f"/apis/{kind.api_version}") is not None}
    workload = await workload_now(client, service.metadata, served)
    desired = render(service, _defaults(image, live, workload), served)
    desired = await _steered(client, service, desired, workload)
    steps = [await _step(client, service.metadata, each, served) for each in desired]
    steps += await _leftovers(client, service.metadata, desired, served)
    return Plan(service, refusal, steps, workload)


async def _refusal(client: Client, service: TextGenerationService, live: Manifest | None) -> str:
    """Why the API server would not take the resource."""
    meta = service.metadata
    named = {"name": meta.name, "namespace": meta.namespace}
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    manifest = {"apiVersion": service.api_version, "kind": service.kind, "metadata": named, "spec": spec}
    try:
        if live is None:
            await client.create(SERVICES_OF_OURS.path(meta.namespace), manifest, dry_run=True)
        else:
            step = {"op": "replace", "path": "/spec", "value": spec}
            await client.patch(SERVICES_OF_OURS.path(meta.namespace, meta.name), [step], FIELD_MANAGER, dry_run=True)
    except ApiError as error:
        if not error.is_refusal:
            raise
        return str(error)
    return ""


def _defaults(image: str | None, live: Manifest | None, workload: Manifest | None) -> Defaults:
    """The installation's image is known from what runs, if that was not the service's own wish."""
    if image is not None:
        return Defaults(image=image)
    if live is None or workload is None or "image" in live["spec"]:
        return Defaults()
    return Defaults(image=server_of(pod_spec(workload)["containers"])["image"])


async def _steered(
    client: Client, service: TextGenerationService, desired: list[Manifest], live: Manifest | None
) -> list[Manifest]:
    """The objects as the operator would apply them: pods of an earlier operator stay, secrets are marked."""
    meta = service.metadata
    keeper = next(each for each in desired if each["metadata"]["name"] == keeper_of(meta))
    kept = await client.get(kind_of(keeper).path(meta.namespace, keeper_of(meta)))
    found = []
    for each in desired:
        if kind_of(each) not in WORKLOADS:
            found.append(each)
            continue
        same_kind = live is not None and live["kind"] == each["kind"]
        ours = kept if kept is not None and is_ours(kept, meta) else None
        course = await Steering(client).course(service, each, live if same_kind else None, ours)
        keep(course.manifest, keeper)
        # Not the count of one moment of a rollout, but that of its end.
        end = {"replicas": course.wanted} if kind_of(each) == STATEFUL_SETS else {}
        found.append(course.manifest | {"spec": course.manifest["spec"] | end})
    return found


async def _step(client: Client, service: ObjectMeta, desired: Manifest, served: Set[Kind]) -> Step:
    kind, meta = kind_of(desired), desired["metadata"]
    what = f"{kind.name} {meta['name']}"
    if kind in OPTIONAL and kind not in served:
        return Step(what, "blocked", (f"the cluster does not know {kind.api_version}: install {kind.provider}",))
    path = kind.path(meta["namespace"], meta["name"])
    live = await client.get(path)
    if live is not None and await goes_with_ours(client, live, service):
        return Step(what, "create", ("when what has its name now is gone, with the workload that made it",))
    disposition = dispose(desired, live, service)
    if disposition is Disposition.CONFLICT:
        return Step(what, "blocked", ("there is one that is not this service's",))
    if live is not None and must_replace(desired, live):
        workload = workload_of(desired)
        same = covers(workload.templates(desired), workload.templates(live))
        return Step(what, "replace", ("its pods serve on meanwhile",), restarts=not same)
    try:
        after = await client.apply(path, desired, FIELD_MANAGER, dry_run=True)
    except ApiError as error:
        if not error.is_refusal:
            raise
        return Step(what, "blocked", (str(error),))
    return _compared(what, live, after)


def _compared(what: str, live: Manifest | None, after: Manifest) -> Step:
    if live is None:
        return Step(what, "create")
    changed = tuple(changes(live, after))
    if not changed:
        return Step(what, "unchanged")
    restarts = kind_of(after) in WORKLOADS and workload_of(after).templates(live) != workload_of(after).templates(after)
    return Step(what, "update", changed, restarts)


async def _leftovers(client: Client, service: ObjectMeta, desired: list[Manifest], served: Set[Kind]) -> list[Step]:
    """What the service has now, and would not have any more."""
    wanted = {(kind_of(each), each["metadata"]["name"]) for each in desired}
    steps: list[Step] = []
    for kind in PRUNED:
        if kind in OPTIONAL and kind not in served:
            continue
        found = await client.items(kind.path(service.namespace), f"{SERVICE_LABEL}={service.name}")
        names = [live["metadata"]["name"] for live in found if is_ours(live, service) and not is_retained(live, kind)]
        restarts = kind in WORKLOADS
        steps += [Step(f"{kind.name} {name}", "delete", (), restarts) for name in names if (kind, name) not in wanted]
    return steps


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Paths at which two objects differ, but for what the API server keeps of its own."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            here = f"{path}.{key}" if path else key
            if here not in _KEPT_BY_THE_SERVER:
                yield from changes(before.get(key), after.get(key), here)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, two) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, two, f"{path}[{index}]")
    elif before != after:
        yield path


_KEPT_BY_THE_SERVER = {"status", "metadata.managedFields", "metadata.resourceVersion", "metadata.generation"}


def describe(plan: Plan) -> str:
    """The plan for people."""
    meta = plan.service.metadata
    lines = [f"{meta.name} in {meta.namespace}"]
    if plan.refusal:
        lines.append(f"  refused: {plan.refusal}")
    for step in plan.steps:
        lines.append(f"  {step.action:<9} {step.what}")
        lines += [f"            {detail}" for detail in step.details]
    return "\n".join([*lines, *(f"  {line}" for line in (_of_pods(plan), _of_gpus(plan)) if line)]) + "\n"


def _of_pods(plan: Plan) -> str:
    replicas = _replicas_of(plan.workload)
    if not replicas:
        return ""
    rollout = plan.service.spec.rollout
    if not plan.restarts or rollout.paused:
        return "pods: none restarts"
    first = rollout.partition if rollout.strategy == "Rolling" else 0
    count = max(0, min(replicas, plan.service.spec.replicas) - first)
    pace = _PACE["Recreate" if plan.moves else rollout.strategy]
    return f"pods: {count * plan.service.spec.nodes} restart, {pace}"


_PACE = {
    "Rolling": "one after the other; each is gone before its successor comes",
    "Recreate": "all at once; none answers meanwhile",
    "Surge": "one after the other, beside one pod more",
    "OnDelete": "each when somebody deletes it",
}


def _of_gpus(plan: Plan) -> str:
    """GPUs before, at the most and after: a replica has those of its old or of its new pod, and Surge one pod more."""
    gpu = plan.service.spec.gpu
    before, after = (
        _gpus_of(plan.workload, gpu.resource_name),
        [gpu.count * plan.service.spec.nodes] * plan.service.spec.replicas,
    )
    width = max(len(before), len(after))
    padded = [counts + [0] * (width - len(counts)) for counts in (before, after)]
    peak = sum(max(pair) for pair in zip(*padded, strict=True))
    if plan.restarts and not plan.moves and plan.service.spec.rollout.strategy == "Surge":
        peak += gpu.count * plan.service.spec.nodes
    if not peak:
        return ""
    return f"GPUs ({gpu.resource_name}): {sum(before)} now, {peak} at peak, {sum(after)} afterwards"


def _replicas_of(workload: Manifest | None) -> int:
    return workload_of(workload).tally(workload, ()).wanted if workload else 0


def _gpus_of(workload: Manifest | None, resource: str) -> list[int]:
    """GPUs of each replica as it is."""
    if workload is None:
        return []
    limits = [container.get("resources", {}).get("limits", {}) for container in pod_spec(workload)["containers"]]
    tally = workload_of(workload).tally(workload, ())
    return [sum(int(each.get(resource, 0)) for each in limits) * tally.pods_each] * tally.wanted
