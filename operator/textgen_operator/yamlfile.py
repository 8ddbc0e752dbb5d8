"""YAML in, with errors that give the line, and out.

Read by `textgen-operator run` and `render`; in a cluster the API server reads YAML, and refuses it by the CRD. Written
by `render` and tools/generate.py.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from textgen_operator.kinds import Manifest
from textgen_operator.resource import API_VERSION, KIND, Problem, TextGenerationService, problems


class SourceError(ValueError):
    """The file holds no service that can be used; the message says what is wrong, and in which line."""


def load_services(file: Path) -> list[TextGenerationService]:
    """Every TextGenerationService in a file; other kinds of objects are passed over.

    Raises:
        SourceError: the file cannot be read, is no YAML, or holds no service or one that is not valid.
    """
    try:
        text = file.read_text()
        documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        objects = [value for value in yaml.safe_load_all(text) if value is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SourceError(f"{file}: is not YAML: {error}") from None
    pairs = zip(documents, objects, strict=True)
    services = [_validated(file, node, value) for node, value in pairs if _is_service(value)]
    if not services:
        raise SourceError(f"{file}: holds no {KIND} of {API_VERSION}")
    return services


def load_service(file: Path, name: str | None) -> TextGenerationService:
    """The service of that name in a file, or its only one. Raises SourceError."""
    services = load_services(file)
    names = ", ".join(service.metadata.name for service in services)
    if name is None and len(services) > 1:
        raise SourceError(f"{file}: holds several services ({names}): choose one with --name")
    for service in services:
        if name in (None, service.metadata.name):
            return service
    raise SourceError(f"{file}: holds no service {name!r}, but {names}")


def _is_service(value: Any) -> bool:
    return isinstance(value, dict) and value.get("kind") == KIND


def _validated(file: Path, node: yaml.Node, value: dict[str, Any]) -> TextGenerationService:
    try:
        return TextGenerationService.model_validate(value)
    except ValidationError as error:
        lines = [f"{file}:{_line(node, problem)}: {problem}" for problem in problems(error)]
        raise SourceError("\n".join(lines)) from None


def _line(node: yaml.Node, problem: Problem) -> int:
    """The line of the field, or of the innermost thing around it that is in the file."""
    line = node.start_mark.line
    for step in problem.path:
        found = _child(node, step)
        if found is None:
            break
        node, line = found
    return line + 1


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node, int] | None:
    """The value at a key or an index, and the line where that key or item stands."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item, item.start_mark.line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, key.start_mark.line
    return None


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: equal parts are written out, as kubectl does."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(manifests: Iterable[Manifest]) -> str:
    """The text of a file with these objects, keys in the order given."""
    text: str = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120)
    return text
