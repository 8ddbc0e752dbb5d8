"""What of a cluster belongs to a service, and what is to become of an object that has the name of a rendered one.

Used by the reconciler and by plan.py, which must conclude alike.
"""

import enum
from collections.abc import Iterable, Set

from textgen_operator import apply
from textgen_operator.client import Client
from textgen_operator.compare import was_applied
from textgen_operator.kinds import INFERENCE_SERVICES, LEADER_WORKER_SETS, OPTIONAL, WORKLOADS, Kind, Manifest
from textgen_operator.render.metadata import FIELD_MANAGER, SERVICE_LABEL
from textgen_operator.resource import ObjectMeta


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


async def goes_with_ours(client: Client, live: Manifest, service: ObjectMeta) -> bool:
    """Whether a workload of this service has made an object, with which it goes: a LeaderWorkerSet makes a StatefulSet
    of its own name, KServe an Ingress and an HTTPRoute. Raises ApiError."""
    for controller in (each for each in live["metadata"].get("ownerReferences", []) if each.get("controller")):
        for kind in (LEADER_WORKER_SETS, INFERENCE_SERVICES):
            if (controller["kind"], controller["name"]) == (kind.name, service.name):
                owner = await client.get(kind.path(service.namespace, service.name))
                return owner is None or is_ours(owner, service)
    return False


def served_among(kinds: Iterable[Kind], served: Set[Kind]) -> list[Kind]:
    """Those that the cluster knows, of which `served` are the optional ones."""
    return [kind for kind in kinds if kind not in OPTIONAL or kind in served]


async def workload_now(client: Client, service: ObjectMeta, served: Set[Kind]) -> Manifest | None:
    """What carries a service's pods now, of whatever kind it is to be. Raises ApiError."""
    for kind in served_among(WORKLOADS, served):
        live = await client.get(kind.path(service.namespace, service.name))
        if live is not None and is_ours(live, service):
            return live
    return None
