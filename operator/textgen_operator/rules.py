"""Rules between fields of the custom resource, and the base class of its parts.

A rule is written once, in two languages side by side: CEL, which the API server runs, and Python, which
`textgen-operator run` and the reconciler run. Both report the same sentence. Used by resource/; crd.py finds the
CEL half in the JSON schema.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError


@dataclass(frozen=True)
class Rule:
    """One rule about an object of the custom resource.

    Attributes:
        message: what is wrong and how to put it right; names the fields.
        cel: the rule for the API server; `self` is the object.
        holds: the same in Python, or None for rules about changes (`oldSelf`), which only the API server can check.
        field: the field at fault, relative to the object, as ".gpu.count".
    """

    message: str
    cel: str
    holds: Callable[[Any], bool] | None
    field: str = ""

    def schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | {"fieldPath": self.field} if self.field else entry

    def check(self, value: Any) -> None:
        """Raise PydanticCustomError, with the field in its context, when the rule does not hold."""
        if self.holds is not None and not self.holds(value):
            raise PydanticCustomError("rule", "{message}", {"message": self.message, "field": self.field})


class Part(BaseModel):
    """An object inside the custom resource: camelCase in YAML, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # The API server drops nulls before it fills in defaults.
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.schema() for rule in cls.rules]
        return schema
