"""Whether a model folder can be served, as far as config.json and the headers of its files tell. Imports no torch, so
that the launcher can refuse a model before it starts any other process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen_server import registry
from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import read_json
from textgen_server.weights.headers import read_headers


def inspect(folder: Path) -> None:
    """Raise CheckpointError, one sentence, when config.json or weights are missing, damaged, or of an unknown kind."""
    raw = read_json(folder, "config.json")
    if raw is None:
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder")
    family_in(raw)
    read_headers(folder)


def family_in(raw: Mapping[str, Any]) -> registry.Family:
    """The family that serves a config.json. Raises CheckpointError when there is none."""
    model_type = raw.get("model_type")
    if model_type is None:
        raise CheckpointError("config.json lacks the field 'model_type'")
    family = registry.family_of(model_type)
    if family is None:
        known = ", ".join(sorted(name for f in registry.FAMILIES.values() for name in f.model_types))
        raise CheckpointError(f"config.json: model_type {model_type!r} is not supported; supported: {known}")
    return family
