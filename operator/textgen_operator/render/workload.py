"""Which object carries the pods."""

from textgen_operator.kinds import Manifest
from textgen_operator.render import statefulset
from textgen_operator.render.defaults import Defaults
from textgen_operator.resource import TextGenerationService


def render(service: TextGenerationService, defaults: Defaults) -> Manifest:
    """That object; a service has one."""
    return statefulset.render(service, defaults)
