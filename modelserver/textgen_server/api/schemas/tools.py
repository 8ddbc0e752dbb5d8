"""Tools and the format of the reply, as the bodies of /v1/chat/completions have them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from textgen_server.api.schemas.common import Body
from textgen_server.errors import InvalidRequest
from textgen_server.json_schema import is_too_deep
from textgen_server.sampling import Grammar
from textgen_server.text.tools.calls import Tool, ToolUse

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class FunctionBody(Body):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(validation_alias=AliasChoices("parameters", "arguments"))] = None
    """JSON schema of its arguments. (TGI calls it `arguments`.)"""
    strict: bool | None = None
    """Accepted, without effect: arguments always fit the schema."""

    @property
    def arguments_grammar(self) -> Grammar:
        """The grammar of its arguments alone."""
        return Grammar("json_schema", json.dumps({"type": "object", **(self.parameters or {})}))


class ToolBody(Body):
    """A tool."""

    type: Literal["function"] = "function"
    function: FunctionBody


class ResponseFormat(Body):
    """What the reply's text must look like.

    OpenAI's forms are `{"type": "text"}`, `{"type": "json_object"}` and `{"type": "json_schema", "json_schema":
    {"name", "schema", "strict"}}`. TGI's are `{"type": "json" | "json_object", "value": SCHEMA}`, `{"type": "regex",
    "value": TEXT}` and `{"type": "json_schema", "value": {"name", "schema"}}`.
    """

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: dict[str, Any] | None = None
    value: Any = None

    def to_grammar(self) -> Grammar | None:
        """The grammar, or None for any text. Raises InvalidRequest when the form's own field is missing or wrong."""
        match self.type:
            case "text":
                return None
            case "regex":
                if not isinstance(self.value, str):
                    raise _wrong_format("value", "must be a regular expression")
                return Grammar("regex", self.value)
            case "json_schema":
                name, named = ("json_schema", self.json_schema) if self.value is None else ("value", self.value)
                if not isinstance(named, dict) or "schema" not in named:
                    raise _wrong_format(f"{name}.schema", "is missing")
                return _json_grammar(named["schema"], f"{name}.schema")
            case "json_object" if self.value is None:
                return Grammar("json_schema", '{"type": "object"}')
        return _json_grammar(self.value, "value")


def _json_grammar(schema: Any, field: str) -> Grammar:
    """The grammar of a schema, which TGI also takes as JSON text."""
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
    except (ValueError, RecursionError):
        raise _wrong_format(field, "is not valid JSON") from None
    if not isinstance(schema, dict | bool):
        raise _wrong_format(field, "must be a JSON schema")
    if is_too_deep(schema):
        raise _wrong_format(field, "is nested too deeply")
    return Grammar("json_schema", json.dumps(schema))


def _wrong_format(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"`response_format.{field}` {what}", f"response_format.{field}")


def tool_use(bodies: Sequence[ToolBody], choice: Any, parallel: bool | None) -> ToolUse | None:
    """What `tools`, `tool_choice` and `parallel_tool_calls` ask for; None where nothing may be called.

    Raises:
        InvalidRequest: a tool is no function that can be called, or `choice` names none of them.
    """
    tools = tuple(_tool(body.function, f"tools[{place}].function") for place, body in enumerate(bodies))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidRequest(
                f"`tools[{place}].function.name` is there twice: {name}", f"tools[{place}].function.name"
            )
    required, chosen = _choice(choice, names)
    if not chosen:
        return None
    one = required and choice != "required" and not _allowed(choice)
    return ToolUse(tools, frozenset(chosen), required, parallel=parallel is not False and not one)


def _tool(function: FunctionBody, field: str) -> Tool:
    if not _NAME.fullmatch(function.name):
        rule = "must have 1 to 64 letters, digits, and any of _ - . :"
        raise InvalidRequest(f"`{field}.name` {rule}. Given: {function.name[:80]}", f"{field}.name")
    if (function.parameters or {}).get("type", "object") != "object":
        raise InvalidRequest(f"`{field}.parameters` must have the type object", f"{field}.parameters")
    if is_too_deep(function.parameters):
        raise InvalidRequest(f"`{field}.parameters` is nested too deeply", f"{field}.parameters")
    return Tool(function.name, function.description, function.parameters)


def _choice(choice: Any, names: Sequence[str]) -> tuple[bool, Sequence[str]]:
    """(there must be a call, names of what may be called)."""
    if choice is None or choice == "auto":
        return False, names
    if choice == "none":
        return False, ()
    if choice == "required":
        if not names:
            raise InvalidRequest("`tool_choice` is `required`, but there are no `tools`", "tool_choice")
        return True, names
    if allowed := _allowed(choice):
        chosen = allowed.get("tools")
        if not (isinstance(chosen, list) and chosen) or allowed.get("mode") not in ("auto", "required"):
            raise _wrong_choice()
        chosen = [_named(tool, names) for tool in chosen]
        return allowed["mode"] == "required", chosen
    return True, [_named(choice, names)]


def _allowed(choice: Any) -> Mapping[str, Any] | None:
    """OpenAI's `allowed_tools`, which lets only some of the tools be called."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        return allowed if isinstance(allowed, dict) else {}
    return None


def _named(choice: Any, names: Sequence[str]) -> str:
    """The function that OpenAI's object or TGI's bare name names."""
    function = choice.get("function") if isinstance(choice, dict) else choice
    name = function.get("name") if isinstance(function, dict) else function
    if not isinstance(name, str):
        raise _wrong_choice()
    if name not in names:
        known = ", ".join(f"`{each}`" for each in names) or "none"
        raise InvalidRequest(f"`tool_choice` names `{name[:80]}`, which `tools` does not have: {known}", "tool_choice")
    return name


def _wrong_choice() -> InvalidRequest:
    form = '{"type": "function", "function": {"name": "..."}}'
    return InvalidRequest(
        f"`tool_choice` must be auto, none, required, the name of a function, or {form}", "tool_choice"
    )
