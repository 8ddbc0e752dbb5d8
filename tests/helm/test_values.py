"""What may be said in the chart's values."""

import json
from typing import Any

import pytest
import yaml
from helm.chart import CHART, HelmFailed, render

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
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(HelmFailed, match=culprit):
        render(values)


def test_the_schema_and_the_commented_defaults_name_the_same_values() -> None:
    described = _paths(SCHEMA) - {"global"}
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
