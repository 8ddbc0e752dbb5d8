"""What the schemas of all APIs share."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from textgen_server.errors import InvalidRequest


def told(**keywords: Any) -> Any:
    """JSON schema's words for the bounds of a field, for the API's description. They are checked in text/request.py, in
    TGI's order and with TGI's messages; tests/server/test_contract.py holds one to the other."""
    return Field(json_schema_extra=keywords)


POSITIVE = told(exclusiveMinimum=0)
PROBABILITY = told(exclusiveMinimum=0, maximum=1)
PENALTY = told(minimum=-2, maximum=2)
COUNT = told(minimum=1)


class Body(BaseModel):
    """A JSON object from a client: types must fit exactly, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True)


class Reply(BaseModel):
    """A JSON object for a client. Fields that were not set are left out of it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    def to_json(self) -> bytes:
        """The reply's bytes."""
        return self.model_dump_json(exclude_unset=True).encode()


def refuse_unsupported(body: BaseModel, harmless: Mapping[str, Collection[Any]]) -> None:
    """Refuse fields that this version does not implement, unless they have a value that asks for nothing.

    Raises:
        InvalidRequest: naming the field.
    """
    for name, values in harmless.items():
        if getattr(body, name) not in values:
            raise InvalidRequest(f"`{name}` is not supported by this server; leave it out", name)
