"""The chart's README, whose table of values is what values.yaml says in its comments. Written out by generate.py."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

_KEY = re.compile(r"^( *)([\w]+):")
_HEAD = """\
<!-- Generated from helm/textgen/values.yaml by `make generate`. Do not edit. -->
# The textgen chart

The textgen operator, the definition of TextGenerationService, rights for both and for those who use it, and dashboards.
Installing, upgrading, rolling back and removing it: [upgrade.md](../../docs/upgrade.md).

```
helm install textgen helm/textgen --namespace textgen-system --create-namespace --set imageRegistry=REGISTRY
helm test textgen --namespace textgen-system
```

Every image is taken from REGISTRY. None are published yet: [build them](../../README.md#in-a-cluster).

## Values

A name that is not here is refused.

| value | default | meaning |
|---|---|---|
"""


class UndocumentedValue(Exception):
    """A value of the chart has no comment above it."""


def readme(values: str) -> str:
    """The page.

    Args:
        values: the text of values.yaml.

    Raises:
        UndocumentedValue: a value has no comment above it.
    """
    defaults = yaml.safe_load(values)
    comments = dict(_comments(values))
    rows = []
    for path, default in _leaves(defaults, comments):
        if path not in comments:
            raise UndocumentedValue(f"values.yaml: {path} needs a comment above it")
        rows.append(f"| `{path}` | `{json.dumps(default)}` | {comments[path]} |")
    return _HEAD + "\n".join(rows) + "\n"


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Path of a value -> the comment above it."""
    parents: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            said.append(line.strip().removeprefix("#").strip())
            continue
        if key := _KEY.match(line):
            del parents[len(key[1]) // 2 :]
            parents.append(key[2])
            if said:
                yield ".".join(parents), " ".join(said)
        said = []


def _leaves(values: dict[str, Any], comments: dict[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value, with its path. An object whose own values have no comments is one value."""
    for name, value in values.items():
        path = prefix + name
        inner = f"{path}."
        if isinstance(value, dict) and any(known.startswith(inner) for known in comments):
            yield from _leaves(value, comments, inner)
        else:
            yield path, value
