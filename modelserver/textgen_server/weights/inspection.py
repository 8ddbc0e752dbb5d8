"""Whether a model folder can be served, as far as config.json and the headers of its files tell. Imports no torch, so
that the launcher can refuse a model before it starts any other process."""

import importlib.util
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
    if family_in(raw) is registry.FOREIGN and not _has_transformers():
        raise CheckpointError(without_transformers(raw["model_type"]))
    read_headers(folder)


def _has_transformers() -> bool:
    try:
        return importlib.util.find_spec("transformers") is not None
    except ValueError:  # a module that was put in its place
        return False


def family_in(raw: Mapping[str, Any]) -> registry.Family:
    """The family that serves a config.json. Raises CheckpointError when it does not say what it is."""
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError("config.json lacks the field 'model_type'")
    return registry.family_of(model_type)


def without_transformers(model_type: str) -> str:
    """What to say where a model needs transformers' code and that is not installed."""
    known = ", ".join(sorted(name for family in registry.FAMILIES.values() for name in family.model_types))
    return (
        f"config.json: model_type {model_type!r} is not supported without the library transformers, which may know it: "
        f"pip install 'textgen[transformers]'; supported without it: {known}"
    )
