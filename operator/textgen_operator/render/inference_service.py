"""KServe's InferenceService, with the server's container as its custom predictor."""

from typing import Any

from textgen_operator.kinds import INFERENCE_SERVICES, Manifest
from textgen_operator.render.container import KSERVE_CONTAINER_NAME, server_of
from textgen_operator.render.defaults import Defaults
from textgen_operator.render.metadata import object_meta
from textgen_operator.render.pod import pod_template
from textgen_operator.resource import Spec, TextGenerationService

_ANNOTATIONS = {
    # A Deployment, not Knative. KServe up to 0.15 calls this RawDeployment, and newer ones rewrite that.
    "serving.kserve.io/deploymentMode": "Standard",
    # minReplicas is the number of pods: no scaler of KServe's changes it.
    "serving.kserve.io/autoscalerClass": "none",
}

_STRATEGIES: dict[str, Manifest] = {
    "Rolling": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    "Surge": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    "Recreate": {"type": "Recreate"},
}


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """The InferenceService of a service."""
    meta = object_meta(service.metadata, service.metadata.name)
    template = pod_template(_named_for_kserve(service), defaults)
    predictor: dict[str, Any] = {
        **_adapted(template["spec"]),
        **template["metadata"],
        "minReplicas": service.spec.pods_wanted,
        "deploymentStrategy": _STRATEGIES[service.spec.rollout.strategy],
    }
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.name,
        "metadata": meta | {"annotations": _ANNOTATIONS},
        "spec": {"predictor": predictor},
    }


def _named_for_kserve(service: TextGenerationService) -> TextGenerationService:
    """KServe's clients call the model by the name of the InferenceService, unless the spec has another one."""
    name = service.spec.served_model_name or service.metadata.name
    spec: Spec = service.spec.model_copy(update={"served_model_name": name})
    return service.model_copy(update={"spec": spec})


def _adapted(pod: Manifest) -> Manifest:
    """The pod as KServe expects it: its container first and by KServe's name, and with requests, which KServe would
    not take from the limits as Kubernetes does."""
    server = server_of(pod["containers"])
    resources = server.get("resources", {})
    limits = resources.get("limits", {})
    adapted = server | {
        "name": KSERVE_CONTAINER_NAME,
        "resources": resources | {"requests": limits | resources.get("requests", {})},
    }
    return pod | {"containers": [adapted, *(each for each in pod["containers"] if each is not server)]}
