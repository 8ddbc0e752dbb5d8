"""The whole custom resource, and what may be wrong with one."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from textgen_operator.resource.names import MAX_NAME_LENGTH
from textgen_operator.resource.spec import Spec
from textgen_operator.rules import Part, Rule

_DNS_LABEL = "[a-z]([-a-z0-9]*[a-z0-9])?"


class ObjectMeta(BaseModel):
    """The part of metadata that the operator reads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    namespace: str = "default"
    uid: str | None = None
    generation: int = 0


class TextGenerationService(Part):
    """A model, served."""

    api_version: Literal["textgen.dev/v1alpha1"]
    kind: Literal["TextGenerationService"]
    metadata: ObjectMeta
    spec: Spec
    status: dict[str, Any] = Field(default={})

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"metadata.name must have at most {MAX_NAME_LENGTH} characters, begin with a lower-case letter and hold "
            "only lower-case letters, digits and hyphens, because it names a Service",
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && self.metadata.name.matches('^{_DNS_LABEL}$')",
            lambda service: (
                len(service.metadata.name) <= MAX_NAME_LENGTH
                and re.fullmatch(_DNS_LABEL, service.metadata.name) is not None
            ),
            ".metadata.name",
        ),
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a custom resource.

    Attributes:
        path: the field, as ("spec", "env", 0, "name"); empty for the whole.
        message: what is wrong, and how to put it right.
    """

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.message}" if self.path else self.message


def problems(error: ValidationError) -> list[Problem]:
    """What a failed `TextGenerationService.model_validate` found, each thing with its field."""
    found = []
    for detail in error.errors():
        field = detail.get("ctx", {}).get("field", "") if detail["type"] == "rule" else ""
        path = (*detail["loc"], *filter(None, field.split(".")))
        found.append(Problem(path, _MESSAGES.get(detail["type"], detail["msg"].removeprefix("Value error, "))))
    return found


_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "missing": "is required",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
}
