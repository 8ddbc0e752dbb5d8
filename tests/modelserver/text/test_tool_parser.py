"""Calls are found in an answer's text however it falls into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen_server.text.tools.calls import Answer, CallDelta, TextDelta
from textgen_server.text.tools.formats import GENERIC, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, CallFormat
from textgen_server.text.tools.parser import CallParser

PARIS = {"city": 'Paris "}]</tool_call> \\ {[', "days": [1, {"a": None}], "é": "🦊"}
FORMATS = pytest.mark.parametrize("format", [HERMES, GENERIC, LLAMA, MISTRAL, MISTRAL_ARGS], ids=lambda each: each.name)


def written(format: CallFormat, *calls: tuple[str, object]) -> str:
    """Calls as a model writes them."""
    each = [
        format.before_name + name + format.before_arguments + json.dumps(arguments) + format.after_arguments
        for name, arguments in calls
    ]
    if format.separator is not None:
        return format.opening + format.begin + format.separator.join(each) + format.end
    return (format.between or "").join(format.opening + format.begin + call + format.end for call in each)


def parse(format: CallFormat, *pieces: str) -> tuple[str, list[tuple[str, object]], CallParser]:
    parser, answer = CallParser(format), Answer()
    for piece in pieces:
        for delta in parser.push(piece):
            answer.add(delta)
    for delta in parser.finish():
        answer.add(delta)
    assert parser.count == len(answer.calls)
    assert len({call.id for call in answer.calls}) == len(answer.calls)
    return answer.text, [(call.name, json.loads(call.arguments)) for call in answer.calls], parser


@FORMATS
def test_a_call_is_found_in_any_pieces(format: CallFormat) -> None:
    text = written(format, ("get_weather", PARIS))
    for size in (1, 2, 3, 7, 1000):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        content, calls, parser = parse(format, *pieces)
        assert (content, calls) == ("", [("get_weather", PARIS)])
        assert not parser.in_call


@pytest.mark.parametrize("format", [HERMES, MISTRAL, MISTRAL_ARGS], ids=lambda each: each.name)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_several_calls_and_the_text_before_them(format: CallFormat, size: int) -> None:
    text = "I will look. \n" + written(format, ("a", {}), ("b-2", {"x": 1}), ("a", {"y": [[]]}))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    content, calls, _ = parse(format, *pieces)
    assert content == "I will look."
    assert calls == [("a", {}), ("b-2", {"x": 1}), ("a", {"y": [[]]})]


def test_text_may_stand_between_and_behind_calls() -> None:
    call = written(HERMES, ("a", {}))
    assert parse(HERMES, f"one {call} two {call}\n three ")[0] == "one two\n three"
    assert parse(HERMES, f"one\n{call}\n\n")[0] == "one"


@given(st.lists(st.text(alphabet="<tool_cal>\n {}é", max_size=12), max_size=8))
def test_text_without_calls_comes_as_it_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    if "<tool_call>" not in text:
        content, calls, _ = parse(HERMES, *pieces)
        assert (content, calls) == (text, [])


@pytest.mark.parametrize("text", ["", " ", "hello", "hello {", "[1]", "<|python", "<|python_tag", "\n{"])
def test_bare_text_is_text_if_it_does_not_begin_as_a_call(text: str) -> None:
    for pieces in ([text], list(text)):
        assert parse(LLAMA, *pieces)[:2] == (text, [])


def test_a_bare_call_may_have_its_opening() -> None:
    text = '{"name": "get_time", "parameters": {}}'
    assert parse(LLAMA, text)[1] == parse(LLAMA, "<|python_tag|>" + text)[1] == [("get_time", {})]


def test_a_blank_may_stand_before_a_list_of_calls() -> None:
    assert parse(MISTRAL, "[TOOL_CALLS]", " ", "[", '{"name": "a", "arguments": {}}]')[1] == [("a", {})]


def test_arguments_come_as_they_are_written() -> None:
    parser = CallParser(HERMES)
    assert parser.push('<tool_call>\n{"name": "get_') == []
    head, *rest = parser.push('weather", "arguments": {"ci')
    assert isinstance(head, CallDelta)
    assert (head.number, head.name, head.arguments) == (0, "get_weather", "")
    assert head.id.startswith("call_")
    assert rest == [CallDelta(0, '{"ci')]
    assert parser.push('ty": "P') == [CallDelta(0, 'ty": "P')]
    assert parser.push('aris"}}\n') == [CallDelta(0, 'aris"}')]
    assert parser.push("</tool_call>") == []


def test_text_is_not_held_back_longer_than_it_may_be_a_call() -> None:
    parser = CallParser(HERMES)
    assert parser.push("Hello") == [TextDelta("Hello")]
    assert parser.push(" <tool") == []
    assert parser.push("box>") == [TextDelta(" <toolbox>")]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('ok <tool_call>\n{"name": "get_', "ok", 0),
        ("ok <tool", "ok <tool", 0),
        ('<tool_call>\n{"name": "a", "arguments": {"x": "y', "", 1),
        ('<tool_call>\n{"name": "a", "arguments": {}', "", 1),
    ],
)
def test_what_was_cut_is_as_much_as_there_is(text: str, content: str, calls: int) -> None:
    parser, answer = CallParser(HERMES), Answer()
    for delta in [*parser.push(text), *parser.finish()]:
        answer.add(delta)
    assert (answer.text, len(answer.calls)) == (content, calls)
    assert parser.in_call == ("<tool_call>" in text)


def test_ids_are_as_the_templates_want_them() -> None:
    (head, _) = CallParser(MISTRAL).push('[TOOL_CALLS][{"name": "a", "arguments": {')
    assert isinstance(head, CallDelta)
    assert len(head.id) == 9
    assert head.id.isalnum()
