"""Bodies of /v1/load_lora_adapter and /v1/unload_lora_adapter."""

from typing import Annotated

from pydantic import Field

from textgen_server.api.schemas.common import Body


class LoadAdapterRequest(Body):
    """A LoRA adapter to load."""

    lora_name: Annotated[str, Field(min_length=1, pattern=r"^[^,=\s]+$")]
    """What requests call it, as their `model` or `adapter_id`."""
    lora_path: Annotated[str, Field(min_length=1)]
    """A folder that the server can read, or a hub id, `ID@REVISION` too."""


class UnloadAdapterRequest(Body):
    """A LoRA adapter to forget."""

    lora_name: str
