"""The Job that fetches the model into a shared cache once, before the pods start that would all fetch it."""

import hashlib
import json

from textgen_operator.kinds import JOBS, Manifest
from textgen_operator.render import access, volumes
from textgen_operator.render.container import environment
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import labels, object_meta
from textgen_operator.render.server_args import server_options
from textgen_operator.resource import Spec, TextGenerationService

COMPONENT = "app.kubernetes.io/component"

_OPTIONS = ("revision", "lora_adapters", "huggingface_hub_cache", "trust_remote_code")
_DECIDING: dict[str, bool | set[str]] = {
    **dict.fromkeys(("model", "revision", "adapters", "hugging_face", "storage_secret_ref", "image"), True),
    "cache": {"type", "claim_name"},
}
"""What decides on what is downloaded, from where and how. An operator of another version downloads nothing again."""


def render(service: TextGenerationService, defaults: Defaults, pod: Manifest) -> list[Manifest]:
    """The Job, if the cache is to be warmed.

    Args:
        service: the custom resource.
        defaults: what the installation decides.
        pod: what a pod of the service runs: it is downloaded where, and as whom, it is served.
    """
    spec = service.spec
    if not spec.cache.is_warmed:
        return []
    said = spec.model_dump(mode="json", include=_DECIDING, exclude_defaults=True)
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
    meta = object_meta(service.metadata, f"{service.metadata.name}-download-{key}")
    own = {COMPONENT: "download"}
    meta["labels"] = meta["labels"] | own
    kept = ("automountServiceAccountToken", "enableServiceLinks", "securityContext", "imagePullSecrets", "nodeSelector")
    template = {
        "metadata": {"labels": labels(service.metadata) | own},
        "spec": {
            **{name: pod[name] for name in (*kept, "tolerations", "serviceAccountName") if name in pod},
            "restartPolicy": "Never",
            "containers": [_container(spec, defaults)],
            "volumes": [volume for volume in pod["volumes"] if volume["name"] != "shm"],
        },
    }
    return [
        {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.name,
            "metadata": meta,
            # It stays when it is done: that it is there says that the weights are.
            "spec": {"backoffLimit": 6, "completions": 1, "parallelism": 1, "template": template},
        }
    ]


def _container(spec: Spec, defaults: Defaults) -> Manifest:
    options = server_options(spec)
    shared = options.model_copy()
    # Only what was set is told, and only what matters to a download.
    shared.__pydantic_fields_set__ &= {*_OPTIONS}
    secret = {mount["name"] for mount in access.mounts(spec)}
    return {
        "name": "download",
        "image": spec.image or defaults.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": ["download-weights", str(options.model_id), *shared.to_args()],
        **environment(spec),
        "volumeMounts": [mount for mount in volumes.mounts(spec) if mount["name"] not in {"shm", *secret}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
