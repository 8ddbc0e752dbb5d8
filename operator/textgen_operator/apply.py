"""The only file that writes to the API server: server-side apply under one name, and only what would change something.

Called by reconcile.py and children.py, by claims.py and leftovers.py.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from textgen_operator.client import ApiError, Client
from textgen_operator.compare import covers, invaded_lists, is_applied
from textgen_operator.diagnosis.finding import condition
from textgen_operator.events import Event, manifest_of, name_of
from textgen_operator.kinds import CLAIMS, EVENTS, JOBS, PODS, SERVICES_OF_OURS, Manifest, kind_of
from textgen_operator.render.download import MADE_FROM
from textgen_operator.render.metadata import FIELD_MANAGER
from textgen_operator.resource import API_VERSION, KIND

_log = logging.getLogger(__name__)

_REPAIRER = f"{FIELD_MANAGER}-repair"
"""Who removes items of others from our lists; owns nothing in the end."""

_FIXED_FIELDS = ("serviceName", "selector", "podManagementPolicy")
"""What the API server never lets anyone change in a StatefulSet, beside its claim templates."""


async def apply(client: Client, desired: Manifest, live: Manifest | None) -> Manifest:
    """Make an object what it should be; the object as it is then.

    Args:
        desired: the rendered manifest.
        live: the object as it is, which must be ours, or None when there is none.

    Raises:
        ApiError: the API server refused.
    """
    meta = desired["metadata"]
    path = kind_of(desired).path(meta["namespace"], meta["name"])
    if live is not None and is_applied(desired, live, FIELD_MANAGER):
        return await _forget_repairs(client, path, live)
    if live is not None:
        # Should another object have taken the name since we looked, the uid makes the API server refuse.
        desired = desired | {"metadata": meta | {"uid": live["metadata"]["uid"]}}
        await _drive_out(client, path, live, invaded_lists(desired, live))
    applied = await client.apply(path, desired, FIELD_MANAGER)
    _log.info("%s %s %s/%s", "Updated" if live else "Created", desired["kind"], meta["namespace"], meta["name"])
    return await _forget_repairs(client, path, applied)


async def _drive_out(client: Client, path: str, live: Manifest, lists: Mapping[str, list[Any]]) -> None:
    """Put lists back as they should be. Apply removes nobody else's items, and may even be refused because of them."""
    if lists:
        # Adding a member that is there replaces it, and unlike replacing does not fail when it is gone.
        steps: list[Manifest] = [{"op": "add", "path": pointer, "value": items} for pointer, items in lists.items()]
        await client.patch(path, [_only_if_unchanged(live), *steps], _REPAIRER)


async def _forget_repairs(client: Client, path: str, live: Manifest) -> Manifest:
    """Take the repairer out of the owners: what it owned beside us, we could not remove by applying any more."""
    for index, entry in enumerate(live["metadata"].get("managedFields", [])):
        if entry["manager"] == _REPAIRER:
            removal = {"op": "remove", "path": f"/metadata/managedFields/{index}"}
            return await client.patch(path, [_only_if_unchanged(live), removal], _REPAIRER)
    return live


def _only_if_unchanged(live: Manifest) -> Manifest:
    """A step of a patch that makes the API server refuse it as a conflict when the object has changed since."""
    return {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}


def must_replace(desired: Manifest, live: Manifest) -> bool:
    """Whether the object differs in something that cannot be changed, and has to be made anew."""
    if desired["kind"] == JOBS.name:
        # What is done is done, whatever it would run now.
        made_from = [each["metadata"].get("annotations", {}).get(MADE_FROM) for each in (desired, live)]
        return condition(live, "Complete").get("status") != "True" and made_from[0] != made_from[1]
    if desired["kind"] != "StatefulSet":
        return False
    new, old = desired["spec"], live["spec"]
    if any(new[field] != old[field] for field in _FIXED_FIELDS):
        return True
    return not covers(new.get("volumeClaimTemplates", []), old.get("volumeClaimTemplates", []))


async def remove_for_replacement(client: Client, live: Manifest) -> None:
    """Delete an object, but leave pods that serve alone: its successor takes them over. Raises ApiError."""
    meta, propagation = live["metadata"], "Background" if live["kind"] == JOBS.name else "Orphan"
    await client.delete(kind_of(live).path(meta["namespace"], meta["name"]), meta["uid"], propagation)
    _log.info("Removed %s %s/%s, to make it anew", live["kind"], meta["namespace"], meta["name"])


async def remove(client: Client, live: Manifest) -> None:
    """Delete an object, and what it owns. Raises ApiError."""
    meta = live["metadata"]
    await client.delete(kind_of(live).path(meta["namespace"], meta["name"]), meta["uid"], "Background")
    _log.info("Removed %s %s/%s, which nothing asks for any more", live["kind"], meta["namespace"], meta["name"])


async def announce(client: Client, service: Manifest, event: Event, now: datetime) -> None:
    """Write an event; what happened before is counted up. An event that the API server refuses is only logged."""
    path = EVENTS.path(service["metadata"]["namespace"], name_of(service, event))
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        known = await client.get(path)
        await client.apply(path, manifest_of(service, event, known, stamp), FIELD_MANAGER)
    except ApiError as error:
        if not error.is_refusal:
            raise
        _log.warning("Event %s: %s", event.reason, error)


async def replace_pod(client: Client, pod: Manifest) -> None:
    """Delete a pod, for its StatefulSet to make anew; that it is gone already is as well. Raises ApiError."""
    meta = pod["metadata"]
    try:
        await client.delete(PODS.path(meta["namespace"], meta["name"]), meta["uid"], "Background")
    except ApiError as error:
        if error.status not in (404, 409):
            raise
    _log.info("Removed pod %s/%s, to be replaced", meta["namespace"], meta["name"])


async def remove_claim(client: Client, claim: Manifest) -> None:
    """Delete a volume claim, once no pod uses it. Raises ApiError."""
    meta = claim["metadata"]
    if "deletionTimestamp" not in meta:
        await client.delete(CLAIMS.path(meta["namespace"], meta["name"]), meta["uid"], "Background")
        _log.info("Removed claim %s/%s, which nothing asks for any more", meta["namespace"], meta["name"])


async def grow_claim(client: Client, claim: Manifest, size: str) -> None:
    """Ask for more room in a volume claim. Raises ApiError, as when its class cannot expand volumes."""
    meta = claim["metadata"]
    step = {"op": "replace", "path": "/spec/resources/requests/storage", "value": size}
    await client.patch(CLAIMS.path(meta["namespace"], meta["name"]), [_only_if_unchanged(claim), step], FIELD_MANAGER)
    _log.info("Claim %s/%s grows to %s", meta["namespace"], meta["name"], size)


async def own_claim(client: Client, claim: Manifest, owners: list[Manifest]) -> None:
    """Set the owners of a volume claim. Raises ApiError."""
    meta = claim["metadata"]
    step = {"op": "add", "path": "/metadata/ownerReferences", "value": owners}
    await client.patch(CLAIMS.path(meta["namespace"], meta["name"]), [_only_if_unchanged(claim), step], FIELD_MANAGER)
    _log.info("Claim %s/%s %s", meta["namespace"], meta["name"], "goes with its service" if owners else "is retained")


async def write_status(client: Client, service: Manifest, status: Manifest) -> None:
    """Make the status of a custom resource what it should be. Raises ApiError."""
    meta = service["metadata"]
    desired = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        "status": status,
    }
    if not is_applied(desired, service, FIELD_MANAGER, "status"):
        path = SERVICES_OF_OURS.path(meta["namespace"], meta["name"])
        await client.apply(f"{path}/status", desired, FIELD_MANAGER)
