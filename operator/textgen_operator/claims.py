"""The volume claims of a StatefulSet that is about to be made anew with other claim templates.

Claims outlive their StatefulSet: one that nobody uses any more is deleted here, and one that is to be larger grows.
Whatever was done before the operator was killed is not done again. Called by reconcile.py.
"""

from textgen_operator import apply, quantity
from textgen_operator.client import Client
from textgen_operator.kinds import CLAIMS, Manifest
from textgen_operator.render.metadata import SELECT_OURS, SERVICE_LABEL


async def prepare(client: Client, desired: Manifest, live: Manifest) -> None:
    """Bring the claims of the live StatefulSet to what the desired one needs.

    Raises:
        ApiError: the API server refused, as it does when the claims' storage class cannot expand volumes.
    """
    templates = {template["metadata"]["name"]: template for template in desired["spec"].get("volumeClaimTemplates", [])}
    for old in live["spec"].get("volumeClaimTemplates", []):
        name = old["metadata"]["name"]
        claims = await _claims(client, live, name)
        if name in templates:
            await _grow(client, claims, templates[name]["spec"]["resources"]["requests"]["storage"])
        elif live["spec"].get("persistentVolumeClaimRetentionPolicy", {}).get("whenDeleted") == "Delete":
            # Pods that still use one keep it until they are replaced.
            for claim in claims:
                await apply.remove_claim(client, claim)


async def _claims(client: Client, statefulset: Manifest, template: str) -> list[Manifest]:
    meta = statefulset["metadata"]
    prefix = f"{template}-{meta['name']}-"
    service = meta["labels"][SERVICE_LABEL]
    listed = await client.items(CLAIMS.path(meta["namespace"]), f"{SELECT_OURS},{SERVICE_LABEL}={service}")
    return [claim for claim in listed if claim["metadata"]["name"].removeprefix(prefix).isdecimal()]


async def _grow(client: Client, claims: list[Manifest], size: str) -> None:
    for claim in claims:
        if quantity.parse(claim["spec"]["resources"]["requests"]["storage"]) < quantity.parse(size):
            await apply.grow_claim(client, claim, size)
