"""What the schemas of all APIs share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from textgen_server.priority import Priority


def told(**keywords: Any) -> Any:
    """JSON schema's words for the bounds of a field, for the API's description. They are checked in text/request.py, in
    TGI's order and with TGI's messages; tests/server/test_contract.py holds one to the other."""
    return Field(json_schema_extra=keywords)


POSITIVE = told(exclusiveMinimum=0)
PROBABILITY = told(exclusiveMinimum=0, maximum=1)
PENALTY = told(minimum=-2, maximum=2)
COUNT = told(minimum=1)


def _class_of(value: Any) -> Any:
    """vLLM has numbers; the lower goes first."""
    if type(value) is int:
        return "high" if value < 0 else "low" if value > 0 else "normal"
    return value


PriorityName = Annotated[
    Literal["high", "normal", "low"],
    BeforeValidator(_class_of, json_schema_input_type=Literal["high", "normal", "low"] | int),
]


def priority_of(name: PriorityName | None) -> Priority:
    """The class that a body asks for."""
    return Priority[name.upper()] if name else Priority.NORMAL


class Body(BaseModel):
    """A JSON object from a client: types must fit exactly, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True)


class Reply(BaseModel):
    """A JSON object for a client. Fields that were not set are left out of it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    def to_json(self) -> bytes:
        """The reply's bytes."""
        return self.model_dump_json(exclude_unset=True).encode()
