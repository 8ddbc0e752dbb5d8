"""resource/ -> the CustomResourceDefinition.

Called by tools/generate.py, which writes crds/*.yaml and the chart's copy. Pydantic's JSON schema is not what
Kubernetes calls structural: references are resolved here, "or null" becomes "optional", and whatever has no structural
form, or no bound for the cost of CEL rules, is an error.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from textgen_operator.resource import GROUP, KIND, PLURAL, VERSION, Spec, Status, TextGenerationService
from textgen_operator.yamlfile import dump

Schema = dict[str, Any]

FILE_NAME = f"{PLURAL}.{GROUP}.yaml"
HEADER = "# Generated from operator/textgen_operator/resource/ by `make generate`. Do not edit.\n"

_KEPT = {
    "type",
    "description",
    "default",
    "enum",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
}
_NULL = {"type": "null"}
_BOUNDS = {"string": ("maxLength", "enum"), "array": ("maxItems",), "integer": ("minimum", "enum")}


class NotStructural(ValueError):
    """A field of resource/ has a type that a CustomResourceDefinition cannot express."""


def structural(schema: Schema, definitions: Mapping[str, Schema], path: str) -> Schema:
    """The structural form of one JSON schema.

    Args:
        schema: what pydantic made of a type.
        definitions: its `$defs`.
        path: the field, for error messages.

    Raises:
        NotStructural: the schema has no structural form, or lacks a bound.
    """
    schema = _plain(schema, definitions, path)
    if "x-kubernetes-int-or-string" in schema:
        return schema
    children = _children(schema, definitions, path)
    extensions = {key: schema[key] for key in schema if key.startswith("x-kubernetes-")}
    unknown = schema.keys() - _KEPT - children.keys() - extensions.keys()
    if unknown:
        raise NotStructural(f"{path}: {', '.join(sorted(unknown))} has no form in a CustomResourceDefinition")
    kept = {key: schema[key] for key in schema if key in _KEPT} | children | extensions
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    _drop_empty_default(kept)
    _require_bounds(kept, path)
    return kept


def _plain(schema: Schema, definitions: Mapping[str, Schema], path: str) -> Schema:
    """The schema without title, reference and "or null"; what stands beside a reference wins over it.

    "X or null" is an optional X, because absent and null are one to the API server. No other union has a form.
    """
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "$ref" in schema:
        target = definitions[schema.pop("$ref").removeprefix("#/$defs/")]
        return _plain(target | schema, definitions, path)
    if "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
        options = [option for option in schema.pop("anyOf") if option != _NULL]
        if len(options) != 1:
            raise NotStructural(f"{path}: a field may be of one type only, not of {len(options)}")
        return _plain(options[0] | schema, definitions, path)
    return schema


def _children(schema: Schema, definitions: Mapping[str, Schema], path: str) -> Schema:
    """The structural forms of a schema's properties, items or values."""
    kept: Schema = {}
    if "properties" in schema:
        fields = schema["properties"]
        kept["properties"] = {name: structural(field, definitions, f"{path}.{name}") for name, field in fields.items()}
        if schema.pop("additionalProperties", False) is not False:
            raise NotStructural(f"{path}: an object has either named fields or free keys, not both")
    for key in ("items", "additionalProperties"):
        if key in schema:
            kept[key] = structural(schema[key], definitions, f"{path}[]")
    return kept


def _drop_empty_default(schema: Schema) -> None:
    default = _non_empty(schema.pop("default", None))
    if default is not None:
        schema["default"] = default


def _non_empty(value: Any) -> Any:
    """The value without nulls, empty lists and empty objects: they are what absence means already."""
    if isinstance(value, dict):
        kept = {key: _non_empty(item) for key, item in value.items()}
        value = {key: item for key, item in kept.items() if item is not None}
    return None if value in ({}, []) else value


def _require_bounds(schema: Schema, path: str) -> None:
    if "type" not in schema:
        raise NotStructural(f"{path}: needs a type")
    wanted = _BOUNDS.get(schema["type"], ())
    if schema["type"] == "object" and "additionalProperties" in schema:
        wanted = ("maxProperties",)
    if wanted and not any(bound in schema for bound in wanted):
        raise NotStructural(f"{path}: needs a bound ({' or '.join(wanted)}), for the cost of CEL rules")


def schema_of(part: type[BaseModel]) -> Schema:
    """The structural schema of a class of resource/."""
    schema = part.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    return structural(schema, definitions, part.__name__.lower())


def _column(name: str, path: str, kind: str = "string", priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return column | {"priority": priority} if priority else column


PRINTER_COLUMNS = [
    _column("Model", ".spec.model"),
    _column("Quant", ".spec.quantize"),
    _column("Shards", ".status.shards", "integer"),
    _column("Replicas", ".spec.replicas", "integer"),
    _column("Ready", ".status.readyReplicas", "integer"),
    _column("Status", ".status.phase"),
    _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
    _column("Load", ".status.load.percent", "integer"),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Pending upgrade", ".status.pendingRenderVersion", priority=1),
    _column("URL", ".status.url", priority=1),
    _column("Revision", ".status.model.resolvedRevision", priority=1),
    _column("Started", ".status.startup.lastSeconds", "integer", priority=1),
    _column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
]


def _open_api_schema() -> Schema:
    return {
        "type": "object",
        "description": TextGenerationService.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(Spec),
            "status": schema_of(Status),
        },
        "x-kubernetes-validations": [
            # Inside metadata the API server lets rules see name and generateName, but takes no path as the culprit.
            {"rule": rule.cel, "message": rule.message}
            for rule in TextGenerationService.rules
        ],
    }


def custom_resource_definition() -> Schema:
    """The CustomResourceDefinition as an object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["tgs"],
                "categories": ["all", "inference"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _open_api_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": PRINTER_COLUMNS,
                }
            ],
        },
    }


def file_text() -> str:
    """The generated file."""
    return HEADER + dump([custom_resource_definition()])
