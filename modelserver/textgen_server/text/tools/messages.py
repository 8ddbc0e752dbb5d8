"""Conversations with tools, made ready for the chat template. Called by prompt.py.

A template that knows tools gets what it expects: the arguments of calls as objects, and ids that it accepts. For any
other, tools, calls and results are written into messages of the roles that every template has.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textgen_server.text.tools.calls import Tool, parsed_arguments
from textgen_server.text.tools.formats import CallFormat

Message = dict[str, Any]

_INTRODUCTION = "You have functions that you may call when they help. Each line describes one in JSON:"
_HOW_TO_CALL = (
    "To call a function, write its name and arguments that fit its parameters, in this form, and nothing after it:"
)


def for_template(messages: Sequence[Message], format: CallFormat) -> list[Message]:
    """Messages for a template that knows tools. Results get the name of what was called, for which some ask."""
    called = {call.get("id"): call["function"]["name"] for each in messages for call in each.get("tool_calls") or ()}
    return [_native(message, called, format) for message in messages]


def written_out(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    format: CallFormat,
    takes_system: bool = True,
    introduction: str | None = None,
) -> list[Message]:
    """Messages for a template that does not know tools.

    Args:
        takes_system: the template writes a system message; otherwise the first message of the user has its text.
        introduction: what is said before the list of tools, in place of our own words.
    """
    plain: list[Message] = []
    for message in messages:
        content = str(message.get("content") or "")
        if message.get("role") in ("tool", "function"):
            _add_result(plain, content)
        elif calls := message.get("tool_calls"):
            parts = [content] if content else []
            plain.append({"role": "assistant", "content": "\n".join([*parts, _written_calls(calls, format)])})
        else:
            plain.append(dict(message))
    return _with_instructions(plain, _described(tools, format, introduction), takes_system) if tools else plain


def _native(message: Message, called: Mapping[Any, str], format: CallFormat) -> Message:
    message = dict(message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [_native_call(call, format) for call in calls]
    if id := message.get("tool_call_id"):
        if id in called:
            message.setdefault("name", called[id])
        message["tool_call_id"] = _fitting_id(id, format)
    return message


def _native_call(call: Mapping[str, Any], format: CallFormat) -> dict[str, Any]:
    function = {**call["function"], "arguments": parsed_arguments(call["function"].get("arguments"))}
    return {**call, "function": function, "id": _fitting_id(call.get("id"), format)}


def _fitting_id(id: Any, format: CallFormat) -> Any:
    """An id that the format's templates accept; the same for a call and its result."""
    if format.id_length is None:
        return id
    letters = "".join(character for character in str(id) if character.isascii() and character.isalnum())
    return letters[-format.id_length :].rjust(format.id_length, "0")


def _written_calls(calls: Sequence[Mapping[str, Any]], format: CallFormat) -> str:
    def write(function: Mapping[str, Any]) -> str:
        arguments = json.dumps(parsed_arguments(function.get("arguments")), ensure_ascii=False)
        head = format.opening + format.begin + format.before_name + str(function["name"])
        return head + format.before_arguments + arguments + format.after_arguments + format.end

    return (format.between or "\n").join(write(call["function"]) for call in calls)


def _described(tools: Sequence[Tool], format: CallFormat, introduction: str | None) -> str:
    lines = [json.dumps(tool.for_template()["function"], ensure_ascii=False) for tool in tools]
    example = _written_calls([{"function": {"name": "NAME", "arguments": {"PARAMETER": "VALUE"}}}], format)
    return "\n".join([introduction or _INTRODUCTION, *lines, "", _HOW_TO_CALL, example])


def _add_result(messages: list[Message], content: str) -> None:
    """A result as a message of the user's, or as more of the last one: many templates insist on taking turns."""
    content = f"<tool_response>\n{content}\n</tool_response>"
    if messages and messages[-1]["role"] == "user" and str(messages[-1]["content"]).endswith("</tool_response>"):
        messages[-1]["content"] += "\n" + content
    else:
        messages.append({"role": "user", "content": content})


def _with_instructions(messages: list[Message], text: str, takes_system: bool) -> list[Message]:
    roles = ("system", "developer") if takes_system else ("user",)
    for place, message in enumerate(messages):
        if message["role"] in roles:
            parts = (message["content"], text) if takes_system else (text, message["content"])
            merged = {**message, "content": "\n\n".join(part for part in parts if part)}
            return [*messages[:place], merged, *messages[place + 1 :]]
    return [{"role": roles[0], "content": text}, *messages]
