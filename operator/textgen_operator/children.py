"""The rendered objects of a service at one look: what has the name of each, what becomes of it, and the write.

Called by reconcile.py, which decides on the order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from textgen_operator import apply, claims, warming
from textgen_operator.client import Client
from textgen_operator.events import Change
from textgen_operator.kinds import CLAIMS, JOBS, STATEFUL_SETS, WORKLOADS, Kind, Manifest, kind_of
from textgen_operator.ownership import Disposition, dispose, goes_with_ours
from textgen_operator.resource import ObjectMeta
from textgen_operator.status import Obstacle


@dataclass
class Child:
    """One rendered object, and what has its name: at first what was observed, then what the writes made of it."""

    desired: Manifest
    live: Manifest | None
    disposition: Disposition
    before: Manifest | None = None
    removed: bool = False
    in_the_way: bool = False
    """Something has its name that is not ours, and that will go."""

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return kind_of(self.desired)

    @property
    def carries_pods(self) -> bool:
        """Whether it is the workload."""
        return self.kind in WORKLOADS

    @property
    def change(self) -> Change:
        """What this look did to it."""
        lost = self.before is not None and not self.before["metadata"].get("ownerReferences")
        return Change(self.before, None if self.removed else self.live, adopted=lost)


async def observe(client: Client, desired: Manifest, service: ObjectMeta) -> Child:
    """What has the name of a rendered object now. Raises ApiError."""
    meta = desired["metadata"]
    live = await client.get(kind_of(desired).path(meta["namespace"], meta["name"]))
    if live is not None and await goes_with_ours(client, live, service):
        return Child(desired, None, Disposition.WAIT, in_the_way=True)
    return Child(desired, live, dispose(desired, live, service), live)


async def write(client: Client, child: Child) -> None:
    """Do what is to be done about one object, and note it as it is then.

    Raises:
        ResizeRefused: a volume claim cannot grow; all else is done.
        ApiError: the API server refused.
    """
    if child.disposition is Disposition.APPLY:
        if child.kind == JOBS and child.live is not None:
            return  # a Job cannot be changed, and what it downloads is in its name
        apply_to = claims.write_shared if child.kind == CLAIMS else apply.apply
        child.live = await apply_to(client, child.desired, child.live)
        if child.kind == STATEFUL_SETS:
            await claims.settle(client, child.live)
    elif child.disposition is Disposition.REPLACE and child.live is not None:
        if child.carries_pods:
            await claims.clear(client, child.desired, child.live)
        await apply.remove_for_replacement(client, child.live)
        child.removed = True


def live_of(children: Sequence[Child], *kinds: Kind) -> Manifest | None:
    """The first object of ours of these kinds."""
    for child in children:
        if child.kind in kinds and child.disposition is not Disposition.CONFLICT:
            return child.live
    return None


def unsupported(absent: Sequence[Kind]) -> Obstacle | None:
    """That there is nothing to carry the pods, because the cluster lacks its kind."""
    kind = next((kind for kind in absent if kind in WORKLOADS), None)
    return Obstacle("UnsupportedCluster", kind.absence) if kind else None


def conflict(children: Sequence[Child]) -> Obstacle | None:
    """Names that something else has taken: then nothing is written, so that no half of a service comes to be."""
    taken = [child.desired for child in children if child.disposition is Disposition.CONFLICT]
    if not taken:
        return None
    names = ", ".join(f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in taken)
    return Obstacle("NameConflict", f"{names} exists and is not this service's: remove it, or rename the service")


def download(children: Sequence[Child]) -> Obstacle | None:
    """What of a download pods have to wait for; None when there is none, or when it is done."""
    job = next((child for child in children if child.kind == JOBS), None)
    # One that is not there yet has downloaded nothing.
    return warming.obstacle(job.live or job.desired) if job else None
