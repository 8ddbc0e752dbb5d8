"""Dashboards, alerts and the monitor: every metric and label in them exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from helm.chart import CHART, ROOT, of_kind, render
from promql_parser import AggModifierType, VectorSelector

from textgen_operator import metrics

DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
RULES = [rule for group in ALERTS for rule in group["rules"]]

OF_THE_TARGET = {"namespace", "pod", "le"}
"""Labels that Prometheus adds, and the bounds of buckets."""

_ROW = re.compile(r"^\| `((?:tgi|textgen)_\w+)` \| (\w+)(?:, by ([^|]+))? \|", re.MULTILINE)


def series() -> dict[str, set[str]]:
    """Every series of the server, as the tested table of its metrics says, and of the operator -> its labels."""
    found: dict[str, set[str]] = {}
    for name, kind, labels in _ROW.findall((ROOT / "docs" / "operations.md").read_text()):
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + suffix] = set(re.findall(r"`(\w+)`", labels))
    for collector in metrics.REGISTRY._collector_to_names:
        (family,) = collector.describe()
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            found[family.name + suffix] = set(collector._labelnames)
    return found


SERIES = series()


def parsed(expr: str) -> Any:
    """Grafana's own variables stand for durations here."""
    return promql_parser.parse(expr.replace("$__rate_interval", "5m"))


def selectors(expr: Any) -> Iterator[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(node: Any) -> None:
        if isinstance(node, VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(expr, visit)
    yield from found


def labels_used(expr: Any) -> set[str]:
    """Labels by which an expression groups."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            assert node.modifier.type == AggModifierType.By
            found.update(node.modifier.labels)

    promql_parser.walk(expr, visit)
    return found


def assert_exists(expr: str) -> None:
    tree = parsed(expr)
    known = set(OF_THE_TARGET)
    for selector in selectors(tree):
        assert selector.name in SERIES, f"{selector.name} in {expr}"
        labels = SERIES[selector.name] | OF_THE_TARGET
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels, expr
        known |= labels
    assert labels_used(tree) <= known, expr


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def test_the_table_of_series_is_whole() -> None:
    assert SERIES["textgen_operator_writes_total"] == {"resource", "method", "code"}
    assert SERIES["tgi_request_failure"] == {"err"}
    assert "tgi_request_duration_bucket" in SERIES
    assert "tgi_request_duration" not in SERIES


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_asks_for_series_that_exist(dashboard: Path) -> None:
    for panel in panels(dashboard):
        assert panel["targets"]
        for target in panel["targets"]:
            assert_exists(target["expr"])
            grouped = labels_used(parsed(target["expr"])) | {label for each in SERIES.values() for label in each}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped | OF_THE_TARGET


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_variables_choose_namespace_and_service_from_series_that_exist(dashboard: Path) -> None:
    source, *variables = json.loads(dashboard.read_text())["templating"]["list"]
    assert source["type"] == "datasource"
    assert [variable["name"] for variable in variables] == ["namespace", "service"]
    for variable in variables:
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert query
        assert_exists(query[1])
    names = {name for panel in panels(dashboard) for name in re.findall(r"\$([a-z]\w*)", json.dumps(panel["targets"]))}
    assert names == {"namespace", "service"}


def test_a_service_is_found_by_the_names_of_its_pods_and_finds_them() -> None:
    server = json.loads((CHART / "files/dashboards/server.json").read_text())
    regex = server["templating"]["list"][-1]["regex"].strip("/")
    (expr,) = {re.sub(r".*(pod=~)", "", target["expr"]).split('"')[1] for target in server["panels"][1]["targets"]}
    for pod, service in {"chat-0": "chat", "chat-2-11": "chat-2", "chat-predictor-7d4-x2": "chat"}.items():
        found = re.match(regex, pod)
        assert found
        assert found[1] == service
        assert re.fullmatch(expr.replace("$service", service), pod)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(dashboard: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_series_that_exist_and_names_what_it_is_about(rule: dict[str, Any]) -> None:
    assert_exists(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["for"]
    words = " ".join(rule["annotations"].values())
    assert set(rule["annotations"]) == {"summary", "description"}
    assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels_used(parsed(rule["expr"]))


def test_dashboards_are_found_by_grafanas_sidecar_and_come_as_they_are() -> None:
    maps = of_kind(render(), "ConfigMap")
    assert len(maps) == len(DASHBOARDS) == 2
    for found in maps:
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = found["data"].items()
        assert json.loads(text) == json.loads((CHART / "files/dashboards" / name.removeprefix("textgen-")).read_text())
    assert of_kind(render({"dashboards": {"enabled": False}}), "ConfigMap") == []


def test_prometheus_finds_the_operator_by_the_labels_it_is_told_to() -> None:
    values = {"metrics": {"monitor": "Enabled", "alerts": True, "labels": {"release": "prometheus"}}}
    manifests = render(values)
    (monitor,), (rules,) = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "PrometheusRule")
    (service,) = of_kind(manifests, "Service")
    assert rules["spec"]["groups"] == ALERTS
    assert [found["metadata"]["labels"]["release"] for found in (monitor, rules)] == ["prometheus"] * 2
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    # Series of a service name its own namespace, which must not become the operator's.
    assert endpoint["honorLabels"] is True


def test_the_monitor_waits_for_a_cluster_that_knows_the_kind() -> None:
    assert of_kind(render(), "ServiceMonitor", "PrometheusRule") == []
