"""Which object carries the pods."""

from textgen_operator.kinds import Manifest
from textgen_operator.render import inference_service, leader_worker_set, statefulset
from textgen_operator.render.defaults import Defaults
from textgen_operator.resource import TextGenerationService


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """That object; a service has one."""
    if service.spec.kserve.publish == "InferenceService":
        return inference_service.render(service, defaults)
    if service.spec.nodes > 1:
        return leader_worker_set.render(service, defaults)
    return statefulset.render(service, defaults)
