"""The volume claims of a StatefulSet: they grow, and go or stay with the service, also those without a pod."""

import json
from typing import Any

import pytest
from kmock import KubernetesEmulator, Response
from kube_emulator import resource

from textgen_operator import claims
from textgen_operator.client import Client
from textgen_operator.kinds import CLAIMS, Manifest
from textgen_operator.render.metadata import SERVICE_LABEL

OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat", "uid": "new"}
STRANGER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}


def statefulset(when_deleted: str, size: str = "2Gi") -> Manifest:
    template = {"metadata": {"name": "cache"}, "spec": {"resources": {"requests": {"storage": size}}}}
    return {
        "metadata": {"name": "chat", "namespace": "models", "uid": "new", "labels": {SERVICE_LABEL: "chat"}},
        "spec": {
            "replicas": 1,
            "volumeClaimTemplates": [template],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted, "whenScaled": "Retain"},
        },
    }


def claim(name: str, *owners: Manifest, size: str = "2Gi") -> Manifest:
    meta = {"name": name, "namespace": "models", "uid": name, "resourceVersion": "1"}
    owned = {"ownerReferences": list(owners)} if owners else {}
    return {"metadata": meta | owned, "spec": {"resources": {"requests": {"storage": size}}}}


def hold(kmock: KubernetesEmulator, found: list[Manifest]) -> None:
    for each in found:
        kmock.objects[resource(CLAIMS), "models", each["metadata"]["name"]] = each


def patches(kmock: KubernetesEmulator) -> dict[str, Any]:
    """Name of each claim that was patched -> the value that was set in it."""
    asked = [request for request in kmock if request.method.value == "PATCH"]
    return {request.url.name: json.loads(request.body)[1]["value"] for request in asked}


@pytest.mark.parametrize(
    ("when_deleted", "owners", "set_to"),
    [
        ("Delete", [], [OWNER]),
        ("Delete", [STRANGER], [STRANGER, OWNER]),
        ("Delete", [OWNER], None),
        ("Retain", [OWNER, STRANGER], [STRANGER]),
        ("Retain", [], None),
    ],
)
async def test_the_claim_of_a_replica_that_was_scaled_away_goes_or_stays_as_the_others_do(
    client: Client, kmock: KubernetesEmulator, when_deleted: str, owners: list[Manifest], set_to: list[Manifest] | None
) -> None:
    # The first has a pod, and with it somebody else who takes care; the last is none of this StatefulSet.
    held = [claim("cache-chat-0"), claim("cache-chat-1", *owners), claim("cache-chat-too-1", *owners)]
    hold(kmock, held)
    await claims.settle(client, statefulset(when_deleted))
    assert patches(kmock) == ({} if set_to is None else {"cache-chat-1": set_to})


async def test_a_claim_that_cannot_grow_is_named_and_the_others_grow(client: Client, kmock: KubernetesEmulator) -> None:
    held = [claim("cache-chat-0", size="1Gi"), claim("cache-chat-1", OWNER, size="1024Mi")]
    hold(kmock, held)
    refusal = {"kind": "Status", "message": "the storageclass must support resize"}
    kmock["patch", CLAIMS.path("models", "cache-chat-0")] << Response(status=403, payload=refusal)
    with pytest.raises(claims.ResizeRefused, match="cache-chat-0 stays at 1Gi instead of 2Gi: the storageclass must"):
        await claims.settle(client, statefulset("Delete"))
    assert patches(kmock) == {"cache-chat-0": "2Gi", "cache-chat-1": "2Gi"}
