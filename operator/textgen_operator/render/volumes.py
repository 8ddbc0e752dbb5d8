"""What is mounted into the server's container, and from where."""

from textgen_operator.kinds import Manifest
from textgen_operator.render import access, cache, sources
from textgen_operator.render.server_args import CACHE_FOLDER
from textgen_operator.resource import Spec, TextGenerationService


def pod_volumes(service: TextGenerationService) -> list[Manifest]:
    """The volumes of the pod."""
    spec = service.spec
    shared_memory = spec.shared_memory or f"{spec.num_shards}Gi"
    return [
        *cache.pod_volumes(service),
        *sources.volumes(spec),
        *access.volumes(spec),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        {"name": "tmp", "emptyDir": {}},
    ]


def mounts(spec: Spec) -> list[Manifest]:
    """Where they are in the container."""
    return [
        {"name": cache.VOLUME_NAME, "mountPath": CACHE_FOLDER},
        *sources.mounts(spec),
        *access.mounts(spec),
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
