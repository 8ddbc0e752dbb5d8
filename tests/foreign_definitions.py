"""Definitions of kinds that other projects bring, as in `definitions/`, and whether manifests fit them."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from textgen_operator.kinds import Manifest

FOLDER = Path(__file__).parent / "definitions"


def definition(plural: str) -> Manifest:
    """The CustomResourceDefinition."""
    found: Manifest = yaml.safe_load((FOLDER / f"{plural}.yaml").read_text())
    return found


def assert_fits(manifest: Manifest, plural: str) -> None:
    """Unlike the API server, which drops them silently, this refuses fields that the definition does not have."""
    version = manifest["apiVersion"].rpartition("/")[2]
    (schema,) = [
        each["schema"]["openAPIV3Schema"]
        for each in definition(plural)["spec"]["versions"]
        if each["name"] == version and each["served"]
    ]
    jsonschema.validate(manifest, _closed(schema) | {"additionalProperties": False})


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed
