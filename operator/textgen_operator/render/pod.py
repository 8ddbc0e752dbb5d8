"""The pod of one replica."""

from typing import Any

from textgen_operator.kinds import Manifest
from textgen_operator.render import placement, sanity, volumes
from textgen_operator.render.container import GPU_CLAIM, server_container
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.merge import merge
from textgen_operator.render.metadata import labels
from textgen_operator.resource import Gpu, TextGenerationService

USER_ID = 1000

_GRACE_AFTER_DRAIN = 15
"""Seconds that the server has left, after the drain, to close down."""


def pod_template(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The template of the pods, with what the user's podTemplate changes. Raises pydantic.ValidationError when that
    cannot be read."""
    return _merged_template(service, defaults)[0]


def overrides(service: TextGenerationService, defaults: Defaults) -> list[str]:
    """What the user's podTemplate changes, as paths in the template."""
    return _merged_template(service, defaults)[1]


def _merged_template(service: TextGenerationService, defaults: Defaults) -> tuple[Manifest, list[str]]:
    rendered = {"metadata": {"labels": labels(service.metadata)}, "spec": pod_spec(service, defaults)}
    template = service.spec.pod_template
    if template is None:
        return rendered, []
    merged, changed = merge(rendered, template.model_dump(by_alias=True, exclude_unset=True))
    sanity.check(merged)
    return merged, changed


def pod_spec(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """What runs in the pod of one replica, and where."""
    spec = service.spec
    rendered: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # Variables for every Service of the namespace could be taken for the server's options.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.pre_stop_seconds + spec.drain.timeout_seconds + _GRACE_AFTER_DRAIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Else every start would change the owner of every file of the model.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [server_container(spec, defaults)],
        "volumes": volumes.pod_volumes(service),
        **placement.render(service),
    }
    optional = {
        "imagePullSecrets": [{"name": secret.name} for secret in spec.image_pull_secrets],
        "serviceAccountName": spec.service_account_name,
        "resourceClaims": _gpu_claims(spec.gpu),
    }
    return rendered | {name: value for name, value in optional.items() if value}


def _gpu_claims(gpu: Gpu) -> list[Manifest]:
    if gpu.claim_template_name is None:
        return []
    return [{"name": GPU_CLAIM, "resourceClaimTemplateName": gpu.claim_template_name}]
