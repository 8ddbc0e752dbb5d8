"""What all of tools/ speaks of: functions that a model may call, and the calls that it writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: JSON schema of its arguments, which are an object; None where it takes none.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None

    def for_template(self) -> dict[str, Any]:
        """OpenAI's object, complete, as chat templates expect it."""
        parameters = self.parameters or NO_ARGUMENTS
        function = {"name": self.name, "description": self.description or "", "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolUse:
    """What an answer may call.

    Attributes:
        tools: those that the model knows of.
        callable: names of those that it may call.
        required: the answer must be calls; otherwise it may be text, calls, or both.
        parallel: it may have more than one call.
    """

    tools: tuple[Tool, ...]
    callable: frozenset[str]
    required: bool = False
    parallel: bool = True


class TextDelta(NamedTuple):
    """More of an answer's text."""

    text: str


class CallDelta(NamedTuple):
    """A new call, which has `id` and `name`, or more of the arguments of the call with this number."""

    number: int
    arguments: str = ""
    id: str = ""
    name: str = ""


Delta = TextDelta | CallDelta


@dataclass
class Call:
    """A call as the model wrote it; `arguments` is JSON text, incomplete if the output was cut."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """An answer, put together from its deltas."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Take in the next delta."""
        if isinstance(delta, TextDelta):
            self.text += delta.text
        elif delta.name:
            self.calls.append(Call(delta.id, delta.name, delta.arguments))
        else:
            self.calls[delta.number].arguments += delta.arguments


def parsed_arguments(text: Any) -> Any:
    """Arguments as an object, which templates expect where clients send JSON text; anything else as it is."""
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
