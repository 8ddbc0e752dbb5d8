"""Bodies of /v1/models."""

from typing import Literal

from textgen_server.api.schemas.common import Reply


class ModelCard(Reply):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelState(ModelCard):
    """A served model, for OpenAI's clients and for those of KServe's first protocol."""

    name: str
    """As `id`."""
    ready: bool
    """Requests can be served."""


class ModelList(Reply):
    """The served models."""

    object: Literal["list"]
    data: list[ModelCard]
