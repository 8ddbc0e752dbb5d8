"""Custom resources for tests of the operator."""

from pathlib import Path
from typing import Any

from textgen_operator.kinds import Manifest
from textgen_operator.resource import API_VERSION, KIND, TextGenerationService

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


def custom_resource(name: str = "chat", **spec: Any) -> Manifest:
    """A TextGenerationService as users write it; `model` has a default here, and None takes a field away."""
    given = {"model": "org/model", **spec}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "models"},
        "spec": {field: value for field, value in given.items() if value is not None},
    }


def service(name: str = "chat", **spec: Any) -> TextGenerationService:
    """The same, read."""
    return TextGenerationService.model_validate(custom_resource(name, **spec))
