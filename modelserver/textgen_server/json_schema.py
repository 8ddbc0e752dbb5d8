"""JSON schemas, as what a model writes is held to them. Used by grammars.py, and by text/tools/ for arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 200
"""Levels of lists and objects beyond which a schema is refused; others than ours read them by recursion."""


# What a schema may say to llguidance in "x-guidance". Its other options are patterns, of which clients could build
# grammars that it never comes to an end with; they have no effect.
_OPTIONS = ("coerce_one_of", "lenient", "whitespace_flexible")


def styled(schema: Any, style: Mapping[str, Any]) -> Any:
    """The schema with llguidance's options of `style` and its own "x-guidance"; its own white space goes first."""
    if not isinstance(schema, dict):
        return {"x-guidance": style} if schema is True else schema
    given = schema.get("x-guidance")
    options = {name: given[name] for name in _OPTIONS if name in given} if isinstance(given, dict) else {}
    if "whitespace_flexible" in options:
        style = {}
    return {**schema, "x-guidance": {**style, **options}}


def is_too_deep(value: Any) -> bool:
    """True where `value`, parsed JSON, has more than `DEEPEST` levels."""
    level = [value]
    for _ in range(DEEPEST + 1):
        nested = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [inner for part in nested for inner in part]
        if not level:
            return False
    return True


def closed(schema: Any) -> Any:
    """The schema, changed in place: its objects have the properties it lists and no others, unless it speaks of others.
    JSON schema allows any others; but a model would invent them, and TGI never lets them come."""
    every = list(_subschemas(schema))
    if any(_combines(part) for part in every):
        return schema
    for part in every:
        listed = part.get("properties")
        others = part.keys() & {"additionalProperties", "patternProperties", "minProperties"}
        if isinstance(listed, dict) and not others and all(name in listed for name in _required(part)):
            part["additionalProperties"] = False
    return schema


def _required(part: dict[str, Any]) -> list[str]:
    names = part.get("required")
    return [str(name) for name in names] if isinstance(names, list) else []


def _combines(part: dict[str, Any]) -> bool:
    """True where the properties of several schemas come together in one object."""
    if part.keys() & {"allOf", "unevaluatedProperties"}:
        return True
    return "properties" in part and bool(part.keys() & {"$ref", "anyOf", "oneOf"})


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas within `schema`, itself included; not what only looks like one, as in `const` or `enum`."""
    found = [schema]
    while found:
        part = found.pop()
        if not isinstance(part, dict):
            continue
        yield part
        found += [part.get(keyword) for keyword in ("items", "additionalItems", "additionalProperties")]
        for keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
            inner = part.get(keyword)
            found += inner if isinstance(inner, list) else []
        for keyword in ("properties", "patternProperties", "$defs", "definitions"):
            inner = part.get(keyword)
            found += inner.values() if isinstance(inner, dict) else []
