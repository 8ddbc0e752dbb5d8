"""Objects of a service that nothing asks for any more, and kinds of which it may have only one.

Called by reconcile.py. What is deleted is ours by label, by owner, and by what was applied: nothing else is touched.
"""

from collections.abc import Callable, Iterable, Set

from textgen_operator import apply
from textgen_operator.client import Client
from textgen_operator.informers import ServiceKey
from textgen_operator.kinds import CLAIMS, RIVALS, Kind, Manifest, kind_of


async def remove(
    client: Client,
    service: ServiceKey,
    desired: Iterable[Manifest],
    known: Iterable[tuple[Kind, str]],
    kinds: Set[Kind],
    is_ours: Callable[[Manifest], bool],
) -> set[Kind]:
    """Delete what is left over; the kinds that may not be made yet, because a rival is still there.

    Args:
        client: the API server.
        service: whose objects.
        desired: everything that it should have.
        known: what it may have, by kind and name; what is not known, or known wrongly, costs nothing but a later look.
        kinds: those that may be deleted.
        is_ours: whether a live object belongs to the service.

    Raises:
        ApiError: the API server refused.
    """
    namespace, _ = service
    wanted = {(kind_of(manifest), manifest["metadata"]["name"]) for manifest in desired}
    rivals = {(rival, name) for kind, name in wanted for rival in RIVALS.get(kind, ())}
    left = [found for found in {*known, *rivals} - wanted if found[0] in kinds]
    waiting: set[Kind] = set()
    for kind, name in sorted(left, key=lambda found: (found[0].plural, found[1])):
        live = await client.get(kind.path(namespace, name))
        if live is None or not is_ours(live) or is_retained(live, kind):
            continue
        if "deletionTimestamp" not in live["metadata"]:
            await apply.remove(client, live)
        waiting |= {wanted_kind for wanted_kind, _ in wanted if kind in RIVALS.get(wanted_kind, ())}
    return waiting


def is_retained(live: Manifest, kind: Kind) -> bool:
    """Whether an object of ours stays although nothing asks for it: a claim from which cache.retain took its owner."""
    return kind == CLAIMS and not live["metadata"].get("ownerReferences")
