"""The grammar lets a model write text and valid calls, and nothing between the two."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from front import write_model_folder
from llguidance import LLMatcher, LLTokenizer

from textgen_server.errors import InvalidRequest
from textgen_server.grammars import check, to_llguidance
from textgen_server.sampling import Grammar
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.text.tools.calls import Tool, ToolUse
from textgen_server.text.tools.formats import GENERIC, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, CallFormat
from textgen_server.text.tools.grammar import shown_tokens, tool_grammar

POINT = {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
TOOLS = (
    Tool("get", "Gets.", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
    Tool("get_at", None, POINT),
    Tool("now"),
)
ALL = frozenset({"get", "get_at", "now"})
PERSON = Grammar("json_schema", json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}}))

CALLS = {
    HERMES: '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>',
    GENERIC: '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>',
    LLAMA: '{"name": "%s", "parameters": %s}',
    MISTRAL: '[TOOL_CALLS][{"name": "%s", "arguments": %s}]',
    MISTRAL_ARGS: "[TOOL_CALLS]%s[ARGS]%s",
}
FORMATS = pytest.mark.parametrize("format", list(CALLS), ids=lambda each: each.name)
# (as one token, special): calls' markup may be spelled out, be tokens, or be tokens that are not text.
MARKUP = pytest.mark.parametrize("added", [None, False, True], ids=["spelled", "tokens", "special"])


class World:
    """A tokenizer with or without tokens for markup, and what it makes of grammars."""

    def __init__(self, folder: Path, added: bool | None = None) -> None:
        write_model_folder(folder)
        if added is not None:
            path = folder / "tokenizer.json"
            backend = tokenizers.Tokenizer.from_file(str(path))
            texts = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")
            backend.add_tokens([tokenizers.AddedToken(text, special=added, normalized=False) for text in texts])
            backend.save(str(path))
        self.tokenizer = Tokenizer.load(folder)
        self.vocab_size = 330 + 7
        self._backend = LLTokenizer((folder / "tokenizer.json").read_text(), eos_token=sorted(self.tokenizer.eos_ids))

    def grammar(self, use: ToolUse, format: CallFormat, content: Grammar | None = None) -> Grammar:
        return tool_grammar(use, format, self.tokenizer, self.vocab_size, content)

    def accepts(self, grammar: Grammar, text: str) -> bool:
        """True where `text` may be written and be the end."""
        matcher = LLMatcher(self._backend, to_llguidance(grammar))
        assert not matcher.is_error(), matcher.get_error()
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def begins(self, grammar: Grammar, text: str) -> bool:
        """True where `text` may be written."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return LLMatcher(self._backend, to_llguidance(grammar)).try_consume_tokens(ids) == len(ids)


@pytest.fixture
def make_world(tmp_path: Path) -> Any:
    return lambda added=None: World(tmp_path / "model", added)


def call(format: CallFormat, name: str, arguments: Any) -> str:
    return CALLS[format] % (name, json.dumps(arguments))


@MARKUP
@FORMATS
def test_text_and_calls_may_come_and_calls_are_valid(make_world: Any, format: CallFormat, added: bool | None) -> None:
    world = make_world(added)
    grammar = world.grammar(ToolUse(TOOLS, ALL), format)
    assert world.accepts(grammar, "")
    assert world.accepts(grammar, "hello, {world}!\n")
    assert world.accepts(grammar, call(format, "get", {"city": "}]"}))
    assert world.accepts(grammar, call(format, "get_at", {"x": 3}))
    assert world.accepts(grammar, call(format, "now", {}))
    assert not world.begins(grammar, call(format, "get", {}))
    assert not world.begins(grammar, call(format, "get", {"city": 1}))
    assert not world.begins(grammar, call(format, "get", {"city": "x", "other": 1}))
    assert not world.begins(grammar, call(format, "get_at", {"x": "3"}))
    assert not world.begins(grammar, call(format, "now", {"when": 1}))
    assert not world.begins(grammar, call(format, "got", {}))
    assert not world.accepts(grammar, call(format, "get", {"city": "x"})[:-1])


@MARKUP
@FORMATS
def test_calls_may_be_all_that_comes(make_world: Any, format: CallFormat, added: bool | None) -> None:
    world = make_world(added)
    grammar = world.grammar(ToolUse(TOOLS, ALL, required=True), format)
    assert world.accepts(grammar, call(format, "now", {}))
    assert not world.accepts(grammar, "")
    assert not world.begins(grammar, "hello")
    assert not world.begins(grammar, call(format, "now", {}) + "hello")


@FORMATS
def test_only_some_of_the_tools_may_be_callable(make_world: Any, format: CallFormat) -> None:
    world = make_world()
    for required in (True, False):
        grammar = world.grammar(ToolUse(TOOLS, frozenset({"get"}), required), format)
        assert world.accepts(grammar, call(format, "get", {"city": "x"}))
        assert not world.begins(grammar, call(format, "now", {}))
        assert not world.begins(grammar, call(format, "get_at", {"x": 1}))


@MARKUP
@pytest.mark.parametrize("required", [False, True])
def test_several_calls(make_world: Any, added: bool | None, required: bool) -> None:
    world = make_world(added)
    one = '{"name": "now", "arguments": {}}'
    texts = {
        HERMES: f"<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{one}\n</tool_call>",
        MISTRAL: f"[TOOL_CALLS] [{one}, {one}]",
        MISTRAL_ARGS: "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}",
    }
    for format, text in texts.items():
        assert world.accepts(world.grammar(ToolUse(TOOLS, ALL, required), format), text)
        single = world.grammar(ToolUse(TOOLS, ALL, required, parallel=False), format)
        assert not world.accepts(single, text)
        assert world.accepts(single, call(format, "now", {}))


@MARKUP
def test_text_may_stand_around_calls(make_world: Any, added: bool | None) -> None:
    world = make_world(added)
    now = call(HERMES, "now", {})
    text = f"One {now} two.\n{now}\n"
    assert world.accepts(world.grammar(ToolUse(TOOLS, ALL), HERMES), text)
    single = world.grammar(ToolUse(TOOLS, ALL, parallel=False), HERMES)
    assert world.accepts(single, f"One {now}")
    assert not world.accepts(single, f"{now} two")


@MARKUP
@FORMATS
def test_other_markup_may_stand_in_text(make_world: Any, format: CallFormat, added: bool | None) -> None:
    world = make_world(added)
    for parallel in (True, False):
        grammar = world.grammar(ToolUse(TOOLS, ALL, parallel=parallel), format)
        assert world.accepts(grammar, "<think>\nhm</think>\nhello")
        if not format.bare:
            assert world.accepts(grammar, "<think>\nhm</think>\n" + call(format, "now", {}))


@FORMATS
def test_with_a_response_format_text_is_of_that_format(make_world: Any, format: CallFormat) -> None:
    world = make_world()
    if format.bare:
        with pytest.raises(InvalidRequest, match="`response_format` cannot be combined with `tools`"):
            world.grammar(ToolUse(TOOLS, ALL), format, PERSON)
        return
    grammar = world.grammar(ToolUse(TOOLS, ALL), format, PERSON)
    assert world.accepts(grammar, '{"n": 1}')
    assert world.accepts(grammar, call(format, "now", {}))
    assert not world.begins(grammar, "hello")
    assert not world.begins(grammar, '{"n": "')
    grammar = world.grammar(ToolUse(TOOLS, ALL), format, Grammar("regex", r"\d+/\d\nx"))
    assert world.accepts(grammar, "12/3\nx")
    assert world.accepts(grammar, call(format, "now", {}))
    assert not world.begins(grammar, "x")
    required = world.grammar(ToolUse(TOOLS, ALL, required=True), format, PERSON)
    assert not world.begins(required, '{"n": 1}')


def test_markup_that_is_no_text_is_shown(make_world: Any) -> None:
    world = make_world(added=True)
    shown = {format: shown_tokens(format, world.tokenizer) for format in (MISTRAL_ARGS, HERMES, LLAMA)}
    texts = {format: {world.tokenizer.text_of(id) for id in ids} for format, ids in shown.items()}
    assert texts == {
        MISTRAL_ARGS: {"[TOOL_CALLS]", "[ARGS]"},
        HERMES: {"<tool_call>", "</tool_call>"},
        LLAMA: {"<|python_tag|>"},
    }


def test_a_schema_may_say_that_other_properties_are_welcome(make_world: Any) -> None:
    world = make_world()
    open_schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": True}
    grammar = world.grammar(ToolUse((Tool("f", None, open_schema),), frozenset({"f"}), required=True), HERMES)
    assert world.accepts(grammar, call(HERMES, "f", {"x": 1, "y": [2]}))


@FORMATS
def test_the_checker_knows_such_grammars(make_world: Any, format: CallFormat) -> None:
    world = make_world(added=True)
    assert check(world.grammar(ToolUse(TOOLS, ALL), format)) == ""
    wrong = Tool("f", None, {"type": "object", "properties": {"x": {"not": {"type": "string"}}}})
    grammar = world.grammar(ToolUse((*TOOLS, wrong), frozenset({"f"})), format)
    assert check(grammar) == 'the schema\'s "not" cannot be enforced'
