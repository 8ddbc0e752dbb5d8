"""What the schemas of all APIs share."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from textgen_server.errors import InvalidRequest


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
