"""Conversations with tools, made ready for the chat template. Called by prompt.py.

A template that knows tools gets what it expects: the arguments of calls as objects, and ids that it accepts. For any
other, tools, calls and results are written into messages of the roles that every template has.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textgen_server.text.tools.calls import Tool, parsed_arguments
from textgen_server.text.tools.formats import MISTRAL, MISTRAL_ARGS, CallFormat

Message = dict[str, Any]

_INTRODUCTION = "You have functions that you may call when they help. Each line describes one in JSON:"
_HOW_TO_CALL = (
    "To call a function, write its name and arguments that fit its parameters, in this form, and nothing after it:"
)
_MISTRAL_ID_LENGTH = 9


def for_template(messages: Sequence[Message], format: CallFormat) -> list[Message]:
    """Messages for a template that knows tools."""
    shorten = format in (MISTRAL, MISTRAL_ARGS)
    return [_native(message, shorten) for message in messages]


def written_out(
    messages: Sequence[Message], tools: Sequence[Tool], format: CallFormat, introduction: str | None = None
) -> list[Message]:
    """Messages for a template that does not know tools.

    Args:
        introduction: what is said before the list of tools, in place of our own words.
    """
    plain: list[Message] = []
    for message in messages:
        content = str(message.get("content") or "")
        if message.get("role") in ("tool", "function"):
            content = f"<tool_response>\n{content}\n</tool_response>"
            # Many templates insist on taking turns.
            if plain and plain[-1]["role"] == "user" and plain[-1]["content"].endswith("</tool_response>"):
                plain[-1]["content"] += "\n" + content
            else:
                plain.append({"role": "user", "content": content})
        elif calls := message.get("tool_calls"):
            parts = [content] if content else []
            plain.append({"role": "assistant", "content": "\n".join([*parts, _written_calls(calls, format)])})
        else:
            plain.append(dict(message))
    return _with_system(plain, _described(tools, format, introduction)) if tools else plain


def _native(message: Message, shorten_ids: bool) -> Message:
    message = dict(message)
    if calls := message.get("tool_calls"):
        message["tool_calls"] = [_native_call(call, shorten_ids) for call in calls]
    if shorten_ids and "tool_call_id" in message:
        message["tool_call_id"] = _mistral_id(message["tool_call_id"])
    return message


def _native_call(call: Mapping[str, Any], shorten_id: bool) -> dict[str, Any]:
    function = {**call["function"], "arguments": parsed_arguments(call["function"].get("arguments"))}
    id = call.get("id")
    return {**call, "function": function, "id": _mistral_id(id) if shorten_id else id}


def _mistral_id(id: Any) -> str:
    """An id that Mistral's templates accept; the same for a call and its result."""
    letters = "".join(character for character in str(id) if character.isascii() and character.isalnum())
    return letters[-_MISTRAL_ID_LENGTH:].rjust(_MISTRAL_ID_LENGTH, "0")


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


def _with_system(messages: list[Message], text: str) -> list[Message]:
    if messages and messages[0].get("role") in ("system", "developer"):
        first = messages[0]
        return [{**first, "content": f"{first.get('content') or ''}\n\n{text}".strip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
