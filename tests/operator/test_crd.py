"""The definition is one that an API server takes. That it does is shown in tests/cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator
from operator_samples import EXAMPLES
from pydantic import BaseModel, Field

from textgen_operator import crd
from textgen_operator.resource import Cache, Limits, Spec, TextGenerationService
from textgen_operator.rules import Part
from textgen_server.registry import QUANTIZATION_METHODS

ROOT = Path(__file__).parents[2]
LARGEST = 200_000
"""Bytes; `kubectl apply` keeps a copy in an annotation of at most 262144."""

DEFINITION = crd.custom_resource_definition()
(V1ALPHA1,) = DEFINITION["spec"]["versions"]
SCHEMA = V1ALPHA1["schema"]["openAPIV3Schema"]


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schemas(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from schemas(schema[key], f"{path}[]")


ALL = dict(schemas(SCHEMA))


def test_the_file_is_what_the_code_says() -> None:
    assert (ROOT / "crds" / crd.FILE_NAME).read_text() == crd.file_text()


def test_the_file_is_small_enough_for_kubectl_apply() -> None:
    assert len(crd.file_text()) < LARGEST


@pytest.mark.parametrize(("path", "schema"), ALL.items(), ids=ALL)
def test_every_schema_is_structural(path: str, schema: dict[str, Any]) -> None:
    assert not schema.keys() & {"$ref", "$defs", "allOf", "oneOf", "not", "const", "title", "exclusiveMinimum"}
    assert ("anyOf" in schema) == ("x-kubernetes-int-or-string" in schema)
    assert "type" in schema or "x-kubernetes-int-or-string" in schema
    assert not ("properties" in schema and "additionalProperties" in schema)


@pytest.mark.parametrize("path", [path for path in ALL if path.startswith((".spec.", ".status.")) and "[]" not in path])
def test_every_field_is_described(path: str) -> None:
    assert ALL[path].get("description"), path


def test_every_rule_is_there_with_its_message() -> None:
    for path, part in ((".spec", Spec), (".spec.limits", Limits), (".spec.cache", Cache), ("", TextGenerationService)):
        assert [entry["message"] for entry in ALL[path]["x-kubernetes-validations"]] == [
            rule.message for rule in part.rules
        ]


def test_the_methods_are_the_registrys() -> None:
    assert ALL[".spec.quantize"]["enum"] == list(QUANTIZATION_METHODS)


def test_defaults_reach_into_objects_that_are_left_out() -> None:
    assert ALL[".spec.gpu"]["default"] == {"count": 1, "resourceName": "nvidia.com/gpu"}
    assert ALL[".spec.drain"]["default"] == {"preStopSeconds": 10, "timeoutSeconds": 120}
    assert "default" not in ALL[".spec.resources"]


def test_status_and_scale_are_subresources() -> None:
    assert V1ALPHA1["subresources"]["status"] == {}
    for path in V1ALPHA1["subresources"]["scale"].values():
        assert path in ALL


def test_printer_columns_show_fields_that_exist() -> None:
    for column in V1ALPHA1["additionalPrinterColumns"]:
        field = column["jsonPath"].partition("[")[0]
        assert field in ALL or field.startswith(".metadata."), column


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_schema(example: Path) -> None:
    for manifest in yaml.safe_load_all(example.read_text()):
        strict = Draft202012Validator(SCHEMA | {"additionalProperties": False})
        assert [error.message for error in strict.iter_errors(manifest)] == []


# --- what has no structural form is refused ---------------------------------------------------------------------------


class _Union(Part):
    value: int | bool = 1


class _Unbounded(Part):
    value: str = ""


class _Exclusive(Part):
    value: int = Field(default=1, gt=0)


class _Untyped(Part):
    value: Any = None


class _Constant(Part):
    value: Literal["only"] = "only"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (_Union, r"_union\.value: a field may be of one type only, not of 2"),
        (_Unbounded, r"_unbounded\.value: needs a bound \(maxLength or enum\)"),
        (_Exclusive, r"_exclusive\.value: exclusiveMinimum has no form"),
        (_Untyped, r"_untyped\.value: needs a type"),
        (_Constant, r"_constant\.value: const has no form"),
    ],
)
def test_a_type_without_structural_form_is_an_error(part: type[BaseModel], message: str) -> None:
    with pytest.raises(crd.NotStructural, match=message):
        crd.schema_of(part)
