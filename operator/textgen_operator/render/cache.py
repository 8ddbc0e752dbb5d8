"""The volume at /data, where weights are kept: one function, because each kind of cache is a few lines."""

from collections.abc import Sequence
from typing import Any

from textgen_operator.kinds import CLAIMS, Manifest
from textgen_operator.render.metadata import labels, object_meta
from textgen_operator.resource import Cache, TextGenerationService
from textgen_operator.resource.cache import DEFAULT_CLAIM_SIZE

VOLUME_NAME = "cache"


def pod_volumes(service: TextGenerationService) -> list[dict[str, Any]]:
    """The cache among the pod's volumes; none for PerReplica, whose volume comes from the claim template."""
    cache = service.spec.cache
    if cache.type == "PerReplica":
        return []
    if cache.type in ("Existing", "Shared"):
        source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": cache.claim_name or _shared_name(service)}}
    elif cache.type == "HostPath":
        source = {"hostPath": {"path": cache.path, "type": "Directory"}}
    else:
        source = {"emptyDir": {"sizeLimit": cache.size} if cache.size else {}}
    return [{"name": VOLUME_NAME, **source}]


def claim_templates(service: TextGenerationService) -> list[Manifest]:
    """The StatefulSet's volumeClaimTemplates. They cannot change once made."""
    cache = service.spec.cache
    if cache.type != "PerReplica":
        return []
    meta = {"name": VOLUME_NAME, "labels": labels(service.metadata)}
    return [_claim(meta, cache, ["ReadWriteOnce"])]


def shared_claim(service: TextGenerationService) -> list[Manifest]:
    """The claim that all replicas share; one that is to be retained has no owner."""
    cache = service.spec.cache
    if cache.type != "Shared":
        return []
    meta = object_meta(service.metadata, _shared_name(service))
    if cache.retain:
        meta.pop("ownerReferences", None)
    return [_claim(meta, cache, cache.access_modes or ["ReadWriteMany"])]


def _shared_name(service: TextGenerationService) -> str:
    return f"{service.metadata.name}-{VOLUME_NAME}"


def _claim(meta: Manifest, cache: Cache, modes: Sequence[str]) -> Manifest:
    claim: dict[str, Any] = {
        "accessModes": list(modes),
        "resources": {"requests": {"storage": cache.size or DEFAULT_CLAIM_SIZE}},
    }
    if cache.storage_class_name:
        claim["storageClassName"] = cache.storage_class_name
    return {"apiVersion": CLAIMS.api_version, "kind": CLAIMS.name, "metadata": meta, "spec": claim}


def retention_policy(cache: Cache) -> dict[str, str]:
    """What becomes of the claims; those of replicas that are only scaled away keep their weights for the next time."""
    return {"whenDeleted": "Retain" if cache.retain else "Delete", "whenScaled": "Retain"}
