"""What may be said in the chart's values."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm.chart import CHART, HelmFailed, render

from tools.chart_readme import UndocumentedValue, readme

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"wacth": {"namespaces": ["a"]}}, "wacth"),
        ({"watch": {"namespace": ["a"]}}, "namespace"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"serverImage": {"pullPolicy": "Always"}}, "pullPolicy"),
        ({"crds": {"kept": True}}, "kept"),
        ({"resources": {"limit": {"cpu": 1}}}, "limit"),
        ({"resources": {"limits": {"mem": "1Gi"}}}, "mem"),
        ({"log": {"level": "verbose"}}, "level"),
        ({"watch": {"namespaces": ["Not_A_Namespace"]}}, "namespaces"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
        ({"crds": {"enabled": "yes"}}, "enabled"),
        ({"tolerations": [{"kye": "x"}]}, "kye"),
        ({"affinity": {"nodeAfinity": {}}}, "nodeAfinity"),
        ({"metrics": {"monitor": "on"}}, "monitor"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(HelmFailed, match=culprit):
        render(values)


def test_no_object_of_the_schema_takes_any_name() -> None:
    assert list(_open(SCHEMA, "$")) == ["$.global"]  # other charts' too


def test_every_value_is_told_and_one_without_words_is_refused() -> None:
    page = readme((CHART / "values.yaml").read_text())
    untold = {path for path in _paths(SCHEMA) - {"global.imageRegistry"} if f"| `{path}` |" not in page}
    # Told as one.
    assert untold == {"resources.requests", "resources.limits"}
    with pytest.raises(UndocumentedValue, match=r"a\.c needs a comment"):
        readme("a:\n  # This is told.\n  b: 1\n  c: 2\n")


def _open(schema: Any, path: str) -> Iterator[str]:
    """Objects of a schema that take properties without names."""
    if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
        yield path
    for name, child in schema.get("properties", {}).items():
        yield from _open(child, f"{path}.{name}")
    if "items" in schema:
        yield from _open(schema["items"], f"{path}[]")


def test_the_schema_and_the_commented_defaults_name_the_same_values() -> None:
    described = _paths(SCHEMA) - {"global.imageRegistry"}
    assert described == _default_paths(DEFAULTS, described)


def _paths(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all values that are no objects with properties of their own."""
    found: set[str] = set()
    for name, child in schema["properties"].items():
        found |= _paths(child, f"{prefix}{name}.") if "properties" in child else {prefix + name}
    return found


def _default_paths(values: dict[str, Any], leaves: set[str], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        path = prefix + name
        found |= {path} if path in leaves or not isinstance(value, dict) else _default_paths(value, leaves, f"{path}.")
    return found
