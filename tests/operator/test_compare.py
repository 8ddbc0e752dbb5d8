"""Whether applying would change anything, told from objects as a real API server (1.36) had them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textgen_operator.compare import covers, invaded_lists, is_applied, was_applied
from textgen_operator.kinds import Manifest
from textgen_operator.render.metadata import FIELD_MANAGER

RECORDED = Path(__file__).parent / "recorded"
OBJECTS = ("statefulset", "service", "headless-service", "status")

Change = Callable[[Manifest], Any]


def recorded(name: str) -> tuple[Manifest, Manifest]:
    """What was applied, and what the API server made of it, with its defaults and managedFields."""
    pair = json.loads((RECORDED / f"{name}.json").read_text())
    return pair["desired"], pair["live"]


def applied(desired: Manifest, live: Manifest, name: str) -> bool:
    return is_applied(desired, live, FIELD_MANAGER, "status" if name == "status" else "")


def server(manifest: Manifest) -> Manifest:
    container: Manifest = manifest["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("name", OBJECTS)
def test_what_was_applied_need_not_be_applied_again(name: str) -> None:
    assert applied(*recorded(name), name)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in _leaves(item, (*path, index))]
    return [path]


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"1{value}"


IDENTITY = {"apiVersion", "kind", "metadata"}
LEAVES = [
    (name, leaf)
    for name in OBJECTS
    for leaf in _leaves(recorded(name)[0])
    if leaf[0] not in IDENTITY or leaf[:2] == ("metadata", "labels")
]


@pytest.mark.parametrize(("name", "leaf"), LEAVES, ids=[f"{name} {'.'.join(map(str, leaf))}" for name, leaf in LEAVES])
def test_every_single_value_counts(name: str, leaf: tuple[Any, ...]) -> None:
    desired, live = recorded(name)
    parent: Any = desired
    for step in leaf[:-1]:
        parent = parent[step]
    parent[leaf[-1]] = _other(parent[leaf[-1]])
    assert not applied(desired, live, name)


def taken_over(live: Manifest) -> None:
    """As the API server notes it when somebody else sets a field: it is ours no more, even if the value is the same."""
    (entry,) = [entry for entry in live["metadata"]["managedFields"] if entry["manager"] == FIELD_MANAGER]
    del entry["fieldsV1"]["f:spec"]["f:replicas"]


DRIFT: dict[str, Change] = {
    "a value": lambda live: live["spec"].update(replicas=9),
    "a field taken over": taken_over,
    "a field removed": lambda live: server(live).pop("startupProbe"),
    "an item removed": lambda live: server(live)["env"].pop(0),
    "an item added": lambda live: server(live)["env"].append({"name": "MINE", "value": "1"}),
    "a container added": lambda live: live["spec"]["template"]["spec"]["containers"].append({"name": "sidecar"}),
    "an argument added": lambda live: server(live)["args"].append("--log-level=debug"),
    "all that we own forgotten": lambda live: live["metadata"].update(managedFields=[]),
}


@pytest.mark.parametrize("change", DRIFT.values(), ids=DRIFT)
def test_drift_is_seen(change: Change) -> None:
    desired, live = recorded("statefulset")
    change(live)
    assert not applied(desired, live, "statefulset")


NO_DRIFT: dict[str, Change] = {
    "a default": lambda live: live["spec"]["template"]["spec"].update(dnsPolicy="Default"),
    "an annotation": lambda live: live["metadata"].update(annotations={"team": "ml"}),
    "a label": lambda live: live["metadata"]["labels"].update(team="ml"),
    "a restart": lambda live: live["spec"]["template"]["metadata"].update(annotations={"restartedAt": "now"}),
    "another owner": lambda live: live["metadata"]["ownerReferences"].append({"uid": "other"}),
    "a status": lambda live: live.update(status={"replicas": 9}),
    "the form of a quantity": lambda live: server(live)["resources"]["requests"].update(memory="204800Mi"),
}


@pytest.mark.parametrize("change", NO_DRIFT.values(), ids=NO_DRIFT)
def test_what_is_not_ours_costs_no_write(change: Change) -> None:
    desired, live = recorded("statefulset")
    change(live)
    assert applied(desired, live, "statefulset")


def test_a_field_that_we_no_longer_want_is_seen() -> None:
    desired, live = recorded("statefulset")
    del desired["spec"]["template"]["spec"]["priorityClassName"]
    assert not applied(desired, live, "statefulset")


def test_a_field_that_we_newly_want_is_seen_even_where_the_value_is_there_by_default() -> None:
    desired, live = recorded("statefulset")
    desired["spec"]["template"]["spec"]["dnsPolicy"] = live["spec"]["template"]["spec"]["dnsPolicy"]
    assert not applied(desired, live, "statefulset")


def test_an_object_of_others_was_not_applied_by_us() -> None:
    _, live = recorded("service")
    assert was_applied(live, FIELD_MANAGER)
    assert not was_applied(live, "kubectl")


# --- items of others in our lists -------------------------------------------------------------------------------------


def test_our_own_lists_are_not_invaded() -> None:
    for name in OBJECTS:
        assert invaded_lists(*recorded(name)) == {}


def test_a_port_of_others_is_found_with_the_list_as_it_should_be() -> None:
    desired, live = recorded("service")
    live["spec"]["ports"] = [{"name": "http", "port": 81, "protocol": "TCP"}]
    assert invaded_lists(desired, live) == {"/spec/ports": desired["spec"]["ports"]}


def test_with_an_item_deep_inside_every_list_that_differs_is_put_back() -> None:
    desired, live = recorded("statefulset")
    live["spec"]["template"]["spec"]["volumes"][0]["name"] = "renamed"
    server(live)["volumeMounts"][1]["name"] = "renamed"
    pod = desired["spec"]["template"]["spec"]
    assert invaded_lists(desired, live) == {
        "/spec/template/spec/containers": pod["containers"],
        "/spec/template/spec/volumes": pod["volumes"],
    }


def test_a_value_or_a_missing_item_is_no_invasion() -> None:
    desired, live = recorded("statefulset")
    server(live)["image"] = "other:1"
    server(live)["env"].pop()
    assert invaded_lists(desired, live) == {}


def test_live_may_have_more_but_not_less() -> None:
    live = {"a": 1, "b": [{"c": 2, "d": 3}]}
    assert covers({"b": [{"c": 2}]}, live)
    assert not covers({"b": [{"c": 2}, {}]}, live)
    assert not covers({"e": None}, live)
    assert not covers(copy.deepcopy(live) | {"a": 2}, live)


def _inner(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all objects and lists in a manifest."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [
        below
        for key, item in items
        if isinstance(item, dict | list)
        for below in [(*path, key), *_inner(item, (*path, key))]
    ]


@pytest.mark.parametrize("nonsense", ["x", 7, ["x"], [{"name": "x"}], [["x"]], {"x": ["x"]}], ids=str)
def test_nonsense_is_another_value_wherever_it_stands(nonsense: Any) -> None:
    desired, live = recorded("statefulset")
    for path in _inner(desired["spec"], ("spec",)):
        changed = copy.deepcopy(desired)
        parent: Any = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = nonsense
        assert not applied(changed, live, "statefulset")
