"""The volume at /data, where weights are kept: one function, because each kind of cache is a few lines."""

from typing import Any

from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import labels
from textgen_operator.resource import Cache, TextGenerationService
from textgen_operator.resource.cache import DEFAULT_CLAIM_SIZE

VOLUME_NAME = "cache"


def pod_volumes(cache: Cache) -> list[dict[str, Any]]:
    """The cache among the pod's volumes; none for PerReplica, whose volume comes from the claim template."""
    if cache.type == "PerReplica":
        return []
    if cache.type == "Existing":
        source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": cache.claim_name}}
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
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": cache.size or DEFAULT_CLAIM_SIZE}},
    }
    if cache.storage_class_name:
        claim["storageClassName"] = cache.storage_class_name
    meta = {"name": VOLUME_NAME, "labels": labels(service.metadata)}
    return [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim}]


def retention_policy(cache: Cache) -> dict[str, str]:
    """What becomes of the claims; those of replicas that are only scaled away keep their weights for the next time."""
    return {"whenDeleted": "Retain" if cache.retain else "Delete", "whenScaled": "Retain"}
