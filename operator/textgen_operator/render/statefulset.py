"""The StatefulSet: one pod for each replica, each with the whole model."""

from typing import Any

from textgen_operator.kinds import STATEFUL_SETS, Manifest
from textgen_operator.render import cache
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import object_meta, pods_service_name, selector
from textgen_operator.render.pod import pod_template
from textgen_operator.resource import TextGenerationService
from textgen_operator.rollout.pace import pace


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The StatefulSet of a service."""
    spec = service.spec
    rendered: dict[str, Any] = {
        "serviceName": pods_service_name(service.metadata),
        # Not one after the other: replicas are independent, and a broken revision could not be rolled back.
        "podManagementPolicy": "Parallel",
        "updateStrategy": pace(spec.rollout, spec.pods_wanted, spec.pods_wanted).update_strategy,
        "revisionHistoryLimit": 5,
        "minReadySeconds": 5,
        "replicas": spec.pods_wanted,
        "selector": {"matchLabels": selector(service.metadata)},
        "template": pod_template(service, defaults),
    }
    if spec.cache.type == "PerReplica":
        rendered["volumeClaimTemplates"] = cache.claim_templates(service)
        rendered["persistentVolumeClaimRetentionPolicy"] = cache.retention_policy(spec.cache)
    return {
        "apiVersion": STATEFUL_SETS.api_version,
        "kind": STATEFUL_SETS.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": rendered,
    }
