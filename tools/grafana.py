"""Grafana's JSON for a dashboard: rows of panels, laid out from left to right, over Prometheus' metrics.

Used by dashboards.py, which says what is shown.
"""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_COLUMNS = 24
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit, as "s", "reqps" or "percentunit".
        queries: PromQL -> the legend of its series.
        about: what to know when reading it.
        kind: Grafana's name of the kind of panel.
        width: of the row's 24 columns.
        stacked: whether series add up to a whole.
    """

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


def stat(title: str, unit: str, query: str, about: str = "") -> Panel:
    """A panel with one number of now."""
    return Panel(title, unit, {query: ""}, about, kind="stat", width=4)


@dataclass(frozen=True)
class Variable:
    """A choice above the panels.

    Attributes:
        name: by which queries use it.
        query: Grafana's `label_values(...)`.
        regex: what is kept of each value; empty for all.
    """

    name: str
    query: str
    regex: str = ""


def dashboard(uid: str, title: str, variables: list[Variable], rows: dict[str, list[Panel]]) -> Json:
    """The whole dashboard.

    Args:
        uid: its name in links; never to be changed.
        title: its name for people.
        variables: those beside the data source.
        rows: title -> its panels.
    """
    return {
        "uid": uid,
        "title": title,
        "tags": ["textgen"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), *(_variable(variable) for variable in variables)]},
        "panels": list(_panels(rows)),
    }


def _data_source() -> Json:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "regex": variable.regex,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(rows: dict[str, list[Panel]]) -> list[Json]:
    made: list[Json] = []
    y = 0
    for title, panels in rows.items():
        row = {"type": "row", "title": title, "collapsed": False, "panels": []}
        made.append({"id": len(made) + 1, **row, "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}})
        x, y, below = 0, y + 1, y + 1
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, below
            height = _HEIGHT // 2 if panel.kind == "stat" else _HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            made.append({"id": len(made) + 1, **_panel(panel), "gridPos": place})
            x, below = x + panel.width, max(below, y + height)
        y = below
    return made


def _panel(panel: Panel) -> Json:
    custom = {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    defaults: Json = {"unit": panel.unit, "min": 0}
    return {
        "type": panel.kind,
        "title": panel.title,
        **({"description": panel.about} if panel.about else {}),
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults | ({"custom": custom} if panel.kind == "timeseries" else {})},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
            for at, (expr, legend) in enumerate(panel.queries.items())
        ],
    }
