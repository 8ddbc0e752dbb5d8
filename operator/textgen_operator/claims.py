"""The volume claims of a StatefulSet, which outlive it and which it never changes: they grow here, one that no template
asks for any more is deleted, and those of replicas that were scaled away go with the service, or stay.

Whatever was done before the operator was killed is not done again. Called by children.py.
"""

from typing import Any

from textgen_operator import apply, quantity
from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import CLAIMS, STATEFUL_SETS, Manifest
from textgen_operator.render.metadata import SELECT_OURS, SERVICE_LABEL


class ResizeRefused(ApiError):
    """A claim has another size than it should, and the API server does not let it change."""

    def __init__(self, claim: Manifest, size: str, error: ApiError) -> None:
        message = (
            f"Claim {claim['metadata']['name']} stays at {_size(claim)} instead of {size}: {error}. Volumes never "
            "shrink; for this one to grow, let its storage class expand volumes (allowVolumeExpansion), or delete the "
            "claim and its pod, which are then made anew, with the model to be downloaded again"
        )
        super().__init__(error.status, error.reason, message)


async def clear(client: Client, desired: Manifest, live: Manifest) -> None:
    """Before a StatefulSet is made anew, delete claims whose template goes, unless they are to be retained.

    Raises:
        ApiError: the API server refused.
    """
    names = {template["metadata"]["name"] for template in _templates(desired)}
    for old in _templates(live):
        if old["metadata"]["name"] not in names and _go_with(live):
            # Pods that still use one keep it until they are replaced.
            for claim in await _claims(client, live, old["metadata"]["name"]):
                await apply.remove_claim(client, claim)


async def settle(client: Client, live: Manifest) -> None:
    """Bring the claims of a StatefulSet to what its templates say.

    Raises:
        ResizeRefused: one cannot grow; the others have.
        ApiError: the API server refused something else.
    """
    refused: list[ResizeRefused] = []
    for template in _templates(live):
        size = _size(template)
        for claim in await _claims(client, live, template["metadata"]["name"]):
            if _ordinal(claim) >= live["spec"]["replicas"]:
                await _own(client, claim, live)
            if quantity.parse(_size(claim)) < quantity.parse(size):
                try:
                    await apply.grow_claim(client, claim, size)
                except ApiError as error:
                    if not error.is_refusal:
                        raise
                    refused.append(ResizeRefused(claim, size, error))
    if refused:
        raise refused[0]


async def write_shared(client: Client, desired: Manifest, live: Manifest | None) -> Manifest:
    """Apply a claim; as it is then. Raises as `settle`."""
    try:
        return await apply.apply(client, desired, live)
    except ApiError as error:
        if live is None or not error.is_refusal or quantity.parse(_size(live)) == quantity.parse(_size(desired)):
            raise
        raise ResizeRefused(live, _size(desired), error) from error


async def _own(client: Client, claim: Manifest, statefulset: Manifest) -> None:
    """Let a claim without a pod go with the StatefulSet, or stay. Of those with one, its controller takes care; of the
    others only as long as it is the same that made them."""
    meta = statefulset["metadata"]
    owners = claim["metadata"].get("ownerReferences", [])
    others = [owner for owner in owners if owner["uid"] != meta["uid"]]
    owner = {
        "apiVersion": STATEFUL_SETS.api_version,
        "kind": STATEFUL_SETS.name,
        "name": meta["name"],
        "uid": meta["uid"],
    }
    is_owned = len(others) < len(owners)
    if is_owned != _go_with(statefulset):
        await apply.own_claim(client, claim, others if is_owned else [*others, owner])


async def _claims(client: Client, statefulset: Manifest, template: str) -> list[Manifest]:
    meta = statefulset["metadata"]
    prefix = f"{template}-{meta['name']}-"
    service = meta["labels"][SERVICE_LABEL]
    listed = await client.items(CLAIMS.path(meta["namespace"]), f"{SELECT_OURS},{SERVICE_LABEL}={service}")
    return [claim for claim in listed if claim["metadata"]["name"].removeprefix(prefix).isdecimal()]


def _ordinal(claim: Manifest) -> int:
    return int(claim["metadata"]["name"].rpartition("-")[2])


def _templates(statefulset: Manifest) -> list[Manifest]:
    found: list[Manifest] = statefulset["spec"].get("volumeClaimTemplates") or []
    return found


def _go_with(statefulset: Manifest) -> bool:
    """Whether claims are deleted with their StatefulSet."""
    policy: dict[str, Any] = statefulset["spec"].get("persistentVolumeClaimRetentionPolicy", {})
    return policy.get("whenDeleted") == "Delete"


def _size(claim: Manifest) -> str:
    return str(claim["spec"]["resources"]["requests"]["storage"])
