"""The Job that fetches the model into a shared cache once, before the pods start that would all fetch it."""

import hashlib
import json
from typing import Any

from textgen_operator import quantity
from textgen_operator.kinds import JOBS, Manifest
from textgen_operator.render import access, nodes
from textgen_operator.render.metadata import COMPONENT, labels, object_meta
from textgen_operator.render.server_args import server_options
from textgen_operator.resource import GROUP, Spec, TextGenerationService

MADE_FROM = f"{GROUP}/made-from"
"""Annotation of a Job: the hash of its pod's template, which webhooks may change on the way."""

_OPTIONS = ("revision", "lora_adapters", "huggingface_hub_cache", "trust_remote_code")
_DECIDING: dict[str, bool | set[str]] = {
    **dict.fromkeys(("model", "revision", "adapters", "hugging_face", "storage_secret_ref", "image"), True),
    "cache": {"type", "claim_name"},
}
"""What decides on what is downloaded, from where and how. An operator of another version downloads nothing again."""


_OF_POD = (
    *("affinity", "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "enableServiceLinks", "hostAliases"),
    *("imagePullSecrets", "nodeSelector", "priorityClassName", "schedulerName", "securityContext"),
    *("serviceAccountName", "tolerations"),
)
_OF_CONTAINER = ("image", "imagePullPolicy", "env", "envFrom", "securityContext", "terminationMessagePolicy")
"""What the Job's pod has of one that serves. No GPU and nothing that spreads servers; of several containers the one."""

_MOST_REQUESTED = {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "1Ei"}
"""More than this it does not ask a node to have free: while a new model is downloaded, the old one still serves, and a
node that is full of servers must take the Job."""


def render(service: TextGenerationService, pod: Manifest) -> list[Manifest]:
    """The Job, if the cache is to be warmed.

    Args:
        service: the custom resource.
        pod: what a pod of the service runs: it is downloaded where, and as whom, it is served.
    """
    spec = service.spec
    if not spec.cache.is_warmed:
        return []
    said = spec.model_dump(mode="json", include=_DECIDING, exclude_defaults=True)
    meta = object_meta(service.metadata, f"{service.metadata.name}-download-{_hash(said)}")
    own = {COMPONENT: "download"}
    template = _template(service, pod, own)
    meta |= {"labels": meta["labels"] | own, "annotations": {MADE_FROM: _hash(template)}}
    return [
        {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.name,
            "metadata": meta,
            # It stays when it is done: that it is there says that the weights are.
            "spec": {"backoffLimit": 6, "completions": 1, "parallelism": 1, "template": template},
        }
    ]


def _hash(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def _template(service: TextGenerationService, pod: Manifest, own: dict[str, str]) -> Manifest:
    extra = service.spec.pod_template.metadata if service.spec.pod_template else None
    container = _container(service.spec, pod["containers"][0])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    meta: Manifest = {"labels": (extra.labels if extra else {}) | labels(service.metadata) | own}
    if extra and extra.annotations:
        meta["annotations"] = dict(extra.annotations)
    return {
        "metadata": meta,
        "spec": {
            **{name: pod[name] for name in _OF_POD if name in pod},
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [volume for volume in pod["volumes"] if volume["name"] in mounted],
        },
    }


def _container(spec: Spec, server: Manifest) -> Manifest:
    options = server_options(spec)
    shared = options.model_copy()
    # Only what was set is told, and only what matters to a download.
    shared.__pydantic_fields_set__ &= {*_OPTIONS}
    unread = {"shm", *(mount["name"] for mount in access.mounts(spec))}
    taken = {name: server[name] for name in _OF_CONTAINER if name in server}
    # Images of CUDA see every GPU of their node, unless told otherwise.
    blind = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}
    unasked = {blind["name"], *nodes.VARIABLES}
    variables = [variable for variable in server.get("env", []) if variable["name"] not in unasked]
    return {
        **taken,
        "name": "download",
        "args": ["download-weights", str(options.model_id), *shared.to_args()],
        "env": [*variables, blind],
        "volumeMounts": [mount for mount in server["volumeMounts"] if mount["name"] not in unread],
        **_resources(server.get("resources", {})),
    }


def _resources(served: Manifest) -> Manifest:
    """The server's, as far as a download needs them."""
    limits = {name: amount for name, amount in served.get("limits", {}).items() if name in _MOST_REQUESTED}
    # What is limited and not requested, Kubernetes takes as requested.
    asked = limits | served.get("requests", {})
    requests = {
        name: min(asked[name], most, key=lambda amount: quantity.parse(str(amount)))
        for name, most in _MOST_REQUESTED.items()
        if name in asked
    }
    found = {"requests": requests, "limits": limits}
    return {"resources": {name: amounts for name, amounts in found.items() if amounts}} if requests else {}
