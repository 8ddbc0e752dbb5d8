"""The pod of one replica."""

from typing import Any

from textgen_operator.kinds import Manifest
from textgen_operator.render import placement, volumes
from textgen_operator.render.container import server_container
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import labels
from textgen_operator.resource import TextGenerationService

USER_ID = 1000

_GRACE_AFTER_DRAIN = 15
"""Seconds that the server has left, after the drain, to close down."""


def pod_template(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The template of the pods."""
    return {"metadata": {"labels": labels(service.metadata)}, "spec": pod_spec(service, defaults)}


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
        "volumes": volumes.pod_volumes(spec),
        **placement.render(service),
    }
    if spec.image_pull_secrets:
        rendered["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image_pull_secrets]
    return rendered
