"""The way out where no field will do: parts of the pod's template, merged over what the operator renders.

Only what the operator itself reads of it is spelled out, so that the API server refuses what could not be merged; the
rest it checks with the pod.
"""

from typing import Any, ClassVar

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from textgen_operator.resource.affinity import AsInAPod
from textgen_operator.resource.types import Annotation, LabelValue
from textgen_operator.rules import Part, Rule

OUR_LABELS = ("app.kubernetes.io/", "textgen.dev/")
"""How the labels begin that lead from a pod to its service."""

_OURS = " || ".join(f"k.startsWith('{prefix}')" for prefix in OUR_LABELS)


class TemplateMeta(Part):
    """Labels and annotations of the pods."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=32)
    """More labels."""

    annotations: dict[str, Annotation] = Field(default={}, max_length=32)
    """More annotations."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "podTemplate.metadata.labels must not begin with app.kubernetes.io/ or textgen.dev/, by which the pods are "
            "found: choose other labels",
            f"!has(self.labels) || !self.labels.exists(k, {_OURS})",
            lambda meta: not any(name.startswith(OUR_LABELS) for name in meta.labels),
            ".labels",
        ),
    )


class _Open(Part):
    """An object with more fields than are named here; null in one of those removes what is rendered."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        named = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in data.items() if value is not None or key not in named}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        del schema["additionalProperties"]
        return schema | {"x-kubernetes-preserve-unknown-fields": True}


class TemplateItem(_Open):
    """Something with a name, and whatever else Kubernetes lets it have."""

    name: str = Field(min_length=1, max_length=253)
    """Its name, by which it is merged."""


class TemplateContainer(TemplateItem):
    """A container, as in a pod."""

    env: list[TemplateItem] = Field(default=[], max_length=64)
    """Environment variables."""

    env_from: list[AsInAPod] = Field(default=[], max_length=16)
    """Sources of environment variables."""

    volume_mounts: list[AsInAPod] = Field(default=[], max_length=32)
    """Where volumes are mounted."""


class TemplateSpec(_Open):
    """Parts of the pod's spec. The server's container is called `server`."""

    containers: list[TemplateContainer] = Field(default=[], max_length=16)
    """Containers, the server's too."""

    init_containers: list[TemplateContainer] = Field(default=[], max_length=16)
    """Containers that run before."""

    volumes: list[TemplateItem] = Field(default=[], max_length=32)
    """Volumes."""


class PodTemplate(Part):
    """Parts of a pod's template, merged last over what the other fields make, as `kubectl patch` merges them: objects
    by field, lists of named things by name, null removes. What it changes is in status.overrides."""

    metadata: TemplateMeta = TemplateMeta()
    spec: TemplateSpec = TemplateSpec()
