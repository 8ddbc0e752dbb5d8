"""Would applying this manifest change anything? Answered from the live object, without asking the API server.

The API server keeps in `metadata.managedFields` which fields we applied. Nothing is to be done when these are the
fields that we want, no more and no less, and their values are ours. Whoever changes one of them by hand takes it over,
so it disappears from our list, and what the API server fills in by default never was in it.

Lists in the spec that we render are ours whole, though others may add fields anywhere: an item that somebody put into
one of them (a port, a container, a variable) is drift too, which applying alone would not undo. Pure; used by apply.py.
"""

import json
from collections.abc import Iterator
from typing import Any

from textgen_operator import quantity
from textgen_operator.kinds import Manifest

Fields = dict[str, Any]
"""A set of fields in the form of `fieldsV1`: "f:name" is a field, 'k:{"name":"x"}' the item of a list with that key,
'v:"x"' a value in a set, "." the thing itself; an empty set stands for everything below."""

_IDENTITY = {"apiVersion", "kind"}
_IDENTITY_OF_META = {"name", "namespace", "uid"}
_KEYS_OF_ITEMS = {
    "ports": ("port", "containerPort", "protocol"),
    "volumeMounts": ("mountPath",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""What tells the items of a list apart where it is not their name."""

_QUANTITY_PARENTS = {"requests", "limits"}
_QUANTITY_FIELDS = {"sizeLimit"}


def is_applied(desired: Manifest, live: Manifest, manager: str, subresource: str = "") -> bool:
    """Whether the live object already is what `manager` would make of it by applying `desired`."""
    owned = _owned_fields(live, manager, subresource)
    wanted = {key: value for key, value in desired.items() if key not in _IDENTITY}
    wanted["metadata"] = {key: value for key, value in desired["metadata"].items() if key not in _IDENTITY_OF_META}
    if not wanted["metadata"]:
        del wanted["metadata"]
    return owned is not None and _agrees(wanted, live, owned) and not invaded_lists(desired, live)


def was_applied(live: Manifest, manager: str) -> bool:
    """Whether `manager` has applied the object, and still owns some field of it."""
    return _owned_fields(live, manager, "") is not None


def owns_annotation(live: Manifest, manager: str, name: str) -> bool:
    """Whether an annotation is as `manager` last applied it: whoever writes there takes it over."""
    fields = _owned_fields(live, manager, "") or {}
    return f"f:{name}" in fields.get("f:metadata", {}).get("f:annotations", {})


def _owned_fields(live: Manifest, manager: str, subresource: str) -> Fields | None:
    for entry in live["metadata"].get("managedFields", []):
        key = (entry.get("manager"), entry.get("operation"), entry.get("subresource", ""))
        if key == (manager, "Apply", subresource):
            fields: Fields = entry["fieldsV1"]
            return fields
    return None


def _agrees(desired: Any, live: Any, owned: Fields, name: str = "", parent: str = "") -> bool:
    """Whether `owned` names exactly the fields of `desired`, and `live` has the same values in them."""
    members = {key: below for key, below in owned.items() if key != "."}
    if not members:
        return covers(desired, live, name, parent)
    if isinstance(desired, dict) and isinstance(live, dict):
        return _same_members(desired, live, members, name)
    if isinstance(desired, list) and isinstance(live, list):
        return _same_items(desired, live, members, name)
    return False


def _same_members(desired: Manifest, live: Manifest, owned: Fields, parent: str) -> bool:
    if {f"f:{key}" for key in desired} != owned.keys():
        return False
    return all(
        key in live and _agrees(value, live[key], owned[f"f:{key}"], key, parent) for key, value in desired.items()
    )


def _same_items(desired: list[Any], live: list[Any], owned: Fields, name: str) -> bool:
    """The same for a list whose items have keys, or that is a set."""
    if len(desired) != len(owned):
        return False
    for key, below in owned.items():
        kind, _, text = key.partition(":")
        wanted = json.loads(text)
        ours, theirs = _find(desired, kind, wanted), _find(live, kind, wanted)
        if ours is None or theirs is None or not _agrees(ours, theirs, below, name):
            return False
    return True


def _find(items: list[Any], kind: str, wanted: Any) -> Any:
    """The item that a key ("k") or a value ("v") of `fieldsV1` means, or None."""
    if kind == "v":
        return wanted if wanted in items else None
    objects = (item for item in items if isinstance(item, dict))
    return next((item for item in objects if all(item.get(key) == value for key, value in wanted.items())), None)


def covers(desired: Any, live: Any, name: str = "", parent: str = "") -> bool:
    """Whether `live` has every value of `desired`; it may have more, which the API server filled in."""
    if isinstance(desired, dict) and isinstance(live, dict):
        return all(key in live and covers(value, live[key], key, name) for key, value in desired.items())
    if isinstance(desired, list) and isinstance(live, list):
        same_length = len(desired) == len(live)
        return same_length and all(covers(one, two, name, parent) for one, two in zip(desired, live, strict=True))
    if desired == live:
        return True
    is_quantity = parent in _QUANTITY_PARENTS or name in _QUANTITY_FIELDS
    return is_quantity and _same_amount(str(desired), str(live))


def _same_amount(one: str, two: str) -> bool:
    try:
        return quantity.parse(one) == quantity.parse(two)
    except ValueError:  # what podTemplate says may be anything
        return False


def invaded_lists(desired: Manifest, live: Manifest) -> dict[str, list[Any]]:
    """What to put back when a list of the spec holds items of others: JSON pointer -> the list as it should be.

    These are all lists that differ, because one may refer to another: a renamed volume is renamed in its mounts too.
    """
    ours, theirs = desired.get("spec"), live.get("spec")
    return dict(_differing(ours, theirs, "/spec")) if _is_invaded(ours, theirs, "spec") else {}


def _is_invaded(desired: Any, live: Any, name: str) -> bool:
    if isinstance(desired, dict) and isinstance(live, dict):
        return any(_is_invaded(value, live.get(key), key) for key, value in desired.items())
    if _has_objects(live) and _has_objects(desired):
        ours = {_identity(item, name): item for item in desired}
        return any(
            identity not in ours or _is_invaded(ours[identity], item, name)
            for identity, item in ((_identity(item, name), item) for item in live)
        )
    return False


def _differing(desired: Any, live: Any, pointer: str) -> Iterator[tuple[str, list[Any]]]:
    """The outermost lists of objects that are not as they should be."""
    if isinstance(desired, dict) and isinstance(live, dict):
        for key, value in desired.items():
            yield from _differing(value, live.get(key), f"{pointer}/{key}")
    elif _has_objects(desired) and not covers(desired, live):
        yield pointer, desired


def _has_objects(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, dict) for item in items)


def _identity(item: Manifest, list_name: str) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in _KEYS_OF_ITEMS.get(list_name, ("name",)))
