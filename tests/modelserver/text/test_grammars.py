"""Grammars are checked before they go to the engine: what is wrong is said, and nothing hostile hurts the server."""

import json

import pytest

from textgen_server.errors import InvalidRequest
from textgen_server.sampling import Grammar
from textgen_server.text.grammars import GrammarChecker


@pytest.fixture(scope="module")
def checkers():
    checker = GrammarChecker(workers=1)
    yield checker
    checker.close()


def nested(depth: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def chain(length: int) -> dict:
    links = {f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(length)}
    return {"$defs": {**links, f"d{length}": {"type": "string"}}, "$ref": "#/$defs/d0"}


GOOD = [
    Grammar("json_schema", "{}"),
    Grammar("json_schema", "true"),
    Grammar("json_schema", json.dumps({"type": "object"})),
    Grammar("json_schema", json.dumps({"enum": ["a", 1, None, {"b": []}]})),
    Grammar("json_schema", json.dumps({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}})),
    Grammar("json_schema", json.dumps(chain(100))),
    Grammar("regex", r"^\d+(\.\d+)?$"),
    Grammar("regex", ""),
    Grammar("regex", r"\\"),
    Grammar("lark", "start: TEXT <[1000-1010]> TEXT\nTEXT: /.*/"),
]


@pytest.mark.parametrize("grammar", GOOD, ids=lambda grammar: grammar.source[:40])
async def test_a_good_grammar_passes(checkers, grammar):
    await checkers.check(grammar, "grammar")


BAD = {
    "no JSON": (Grammar("json_schema", '{"type":'), "not valid JSON"),
    "NaN": (Grammar("json_schema", '{"const": NaN}'), "NaN is no JSON number"),
    "no schema": (Grammar("json_schema", "[]"), "schema must be an object"),
    "unknown type": (Grammar("json_schema", '{"type": "strin"}'), "Invalid type: strin"),
    "unknown keyword": (Grammar("json_schema", '{"not": {"type": "string"}}'), '"not" cannot be enforced'),
    "wrong properties": (Grammar("json_schema", '{"properties": []}'), "properties must be an object"),
    "required is no list": (Grammar("json_schema", '{"properties": {}, "required": 3}'), "required"),
    "contradiction": (Grammar("json_schema", '{"type": "integer", "minimum": 5, "maximum": 1}'), "minimum"),
    "unknown reference": (Grammar("json_schema", '{"$ref": "#/nowhere"}'), "nowhere"),
    "reference to the net": (Grammar("json_schema", '{"$ref": "http://example.com/schema"}'), "example.com"),
    "reference to itself alone": (Grammar("json_schema", '{"$ref": "#"}'), "no text matches"),
    "half a surrogate pair": (Grammar("regex", "\ud800"), "surrogate"),
    "open bracket": (Grammar("regex", "("), "wrong: unclosed group"),
    "look-ahead": (Grammar("regex", "(?=a)b"), "look-ahead and look-behind, is not supported"),
    "back reference": (Grammar("regex", r"(a)\1"), "backreferences are not supported"),
    "word boundary": (Grammar("regex", r"\bfoo"), "lookarounds not supported"),
    "open escape": (Grammar("regex", "a\\"), "single backslash"),
    "lark": (Grammar("lark", "start: ("), "Expected token"),
}  # fmt: skip


@pytest.mark.parametrize(("grammar", "why"), BAD.values(), ids=BAD)
async def test_a_bad_grammar_is_refused_with_a_line_that_says_why(checkers, grammar, why):
    with pytest.raises(InvalidRequest, match=f"^response_format is not valid: .*{why}") as refused:
        await checkers.check(grammar, "response_format")
    assert refused.value.field == "response_format"
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


HOSTILE = {
    "deep nesting": Grammar("json_schema", json.dumps(nested(900))),
    "deeper than JSON can be read": Grammar("json_schema", "[" * 100_000),
    "a long chain of references": Grammar("json_schema", json.dumps(chain(20_000))),
    "deep groups": Grammar("regex", "(" * 5000 + "a" + ")" * 5000),
    "a large enumeration": Grammar("json_schema", json.dumps({"enum": [f"value {i}" for i in range(120_000)]})),
    "many optional properties": Grammar(
        "json_schema",
        json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}),
    ),
    "a product of alternatives": Grammar(
        "json_schema",
        json.dumps({"allOf": [
            {"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}, "required": [f"a{i}{j}"]} for j in range(5)]}
            for i in range(9)
        ]}),
    ),
    "a long chain of rules": Grammar(
        "lark", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(30_000)) + 'r30000: "a"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_grammar_is_refused_and_the_next_is_checked(checkers, grammar):
    with pytest.raises(InvalidRequest, match="grammar is not valid"):
        await checkers.check(grammar, "grammar")
    await checkers.check(Grammar("regex", f"after{len(grammar.source)}"), "grammar")


@pytest.mark.parametrize(
    "slow",
    [
        Grammar("regex", "|".join(f"{i}{i}{i}" for i in range(200_000))),
        Grammar("lark", "start: /a+/ /a+/ //"),  # llguidance never comes to an end
    ],
    ids=["large", "endless"],
)
async def test_a_grammar_that_takes_too_long_is_refused_and_the_next_is_checked(slow):
    checker = GrammarChecker(workers=1, seconds=0.4)
    try:
        with pytest.raises(InvalidRequest, match=r"takes more than 0\.4 s"):
            await checker.check(slow, "grammar")
        await checker.check(Grammar("regex", "a"), "grammar")
    finally:
        checker.close()


async def test_a_verdict_is_remembered_and_asked_for_once(monkeypatch):
    checker, asked = GrammarChecker(workers=1), []
    monkeypatch.setattr(checker, "_ask", lambda grammar: asked.append(grammar) or "it is wrong")
    try:
        for _ in range(3):
            with pytest.raises(InvalidRequest, match="it is wrong"):
                await checker.check(Grammar("regex", "a"), "grammar")
        with pytest.raises(InvalidRequest):
            await checker.check(Grammar("lark", "a"), "grammar")
    finally:
        checker.close()
    assert [grammar.kind for grammar in asked] == ["regex", "lark"]


async def test_nothing_is_started_before_the_first_grammar_and_nothing_is_left_after_close(checkers):
    checker = GrammarChecker(workers=2)
    assert not checker._processes
    await checker.check(Grammar("regex", "a"), "grammar")
    (process,) = checker._processes
    running = process._process
    checker.close()
    assert running.poll() is not None
