"""Grammars over tokens: whatever is drawn from what they allow is a text that fits them."""

import json
import random
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback, byte_level
from tokenizers import Tokenizer, models

from textgen_server.engine.constraints import GrammarCompiler, GrammarConstraint, Vocabulary
from textgen_server.errors import GenerationError, InvalidRequest
from textgen_server.sampling import Grammar
from textgen_server.text.tokenizer import Tokenizer as TextTokenizer

EXTRA = 37  # rows of the model's embedding that stand for no token


class Model:
    """Draws tokens evenly from what a grammar allows: nothing helps it to make sense."""

    def __init__(self, backend: Tokenizer) -> None:
        self.size = backend.get_vocab_size() + EXTRA
        self.ends = {backend.token_to_id("<eos>"), backend.token_to_id("<end>")}
        vocabulary = Vocabulary.read(backend.to_str(), self.ends, self.size)
        self.compiler = GrammarCompiler(vocabulary)
        self._tokens = TextTokenizer(backend, None, None, frozenset(self.ends))

    def allowed(self, *constraints: GrammarConstraint) -> list[list[int]]:
        masks = np.zeros((len(constraints), -(-self.size // 32)), dtype=np.int32)
        constraints[0].fill_masks(constraints, masks)
        bits = np.unpackbits(masks.view(np.uint8), axis=-1, bitorder="little")
        return [row.nonzero()[0].tolist() for row in bits]

    def write(self, grammar: Grammar, seed: int, most: int = 400, goes_on: bool = False) -> list[int]:
        """Tokens until the grammar ends; the last is an end-of-sequence token, unless nothing else could come."""
        constraint, draw, tokens = self.compiler.constraint(grammar, goes_on), random.Random(seed), []
        while not constraint.finished:
            (choices,) = self.allowed(constraint)
            if len(tokens) >= most and self.ends & set(choices):
                choices = sorted(self.ends)
            tokens.append(draw.choice(choices))
            constraint.accept(tokens[-1])
        return tokens

    def text(self, tokens: list[int]) -> str:
        return b"".join(self._tokens.bytes_of(token) for token in tokens if token not in self.ends).decode()

    def token(self, text: str) -> int:
        return next(id for id in range(self.size) if self._tokens.bytes_of(id) == text.encode())


@pytest.fixture(scope="module", params=[byte_level, byte_fallback], ids=lambda make: make.__name__)
def model(request) -> Model:
    return Model(request.param())


def schema_of(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


NAMES = st.sampled_from(["a", "b", "name", "größe", 'q"uote', "with space"])
SCALARS = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
              st.integers(-300, 300), st.integers(0, 2000)),
    st.builds(lambda low, span: {"type": "number", "exclusiveMinimum": low, "maximum": low + span},
              st.integers(-20, 20), st.integers(1, 50)),
    st.builds(lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
              st.integers(0, 5), st.integers(0, 6)),
    st.sampled_from(["^[a-c]{2,4}$", r"^\d{3}-\d{2}$", "x+y?"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 20}),
    st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=4), st.booleans(), st.none()), min_size=1, max_size=4).map(
        lambda values: {"enum": values}),
    st.one_of(st.text(max_size=5), st.lists(st.integers(0, 9), max_size=3)).map(lambda value: {"const": value}),
    st.sampled_from(["date", "uuid", "ipv4", "ipv6", "email"]).map(lambda name: {"type": "string", "format": name}),
)  # fmt: skip


def _objects(inner: st.SearchStrategy) -> st.SearchStrategy:
    listed = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    return listed.flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties))).map(
            lambda required: {"type": "object", "properties": properties, "required": sorted(required)}
        )
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        _objects(inner),
        st.builds(lambda items, low, span: {"type": "array", "items": items, "minItems": low, "maxItems": low + span},
                  inner, st.integers(0, 2), st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda some: {"type": "array", "prefixItems": some, "items": False, "minItems": len(some)}),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_what_a_schema_allows_is_json_that_fits_it(model, schema, seed):
    text = model.text(model.write(schema_of(schema), seed))
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 9},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_may_refer_to_itself(model, seed):
    jsonschema.validate(json.loads(model.text(model.write(schema_of(TREE), seed, most=60))), TREE)


@pytest.mark.parametrize(
    "pattern",
    [r"[A-F0-9]{2}(:[A-F0-9]{2}){5}", "(yes|no|maybe)", r"\d{4}-\d\d", r"\\d[^\d]", "é+|東京", r"a/b\n?", "x*"],
)
def test_the_whole_text_matches_a_regular_expression(model, pattern):
    for seed in range(20):
        assert re.fullmatch(pattern, model.text(model.write(Grammar("regex", pattern), seed, most=30)))


def test_a_context_free_grammar_is_followed(model):
    balanced = Grammar("lark", 'start: "(" start ")" | "x"')
    for seed in range(10):
        text = model.text(model.write(balanced, seed))
        depth = text.count("(")
        assert text == "(" * depth + "x" + ")" * depth


def test_an_object_has_no_properties_but_those_that_its_schema_lists(model):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    assert {model.text(model.write(schema_of(schema), seed)) for seed in range(40)} <= {
        f"{{{gap}}}" for gap in ("", " ")
    } | {f'{{{b}"a"{c}:{d}{value}{e}}}' for value in ("true", "false") for b in ("", " ") for c in ("", " ")
         for d in ("", " ") for e in ("", " ")}  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "z"]},
        {"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"type": "object", "required": ["z"]}]},
    ],
    ids=["allowed", "required", "from another schema"],
)
def test_other_properties_stay_possible_where_a_schema_speaks_of_them(model, schema):
    allowed = model.allowed(model.compiler.constraint(schema_of(schema)))
    assert allowed[0]
    texts = [model.text(model.write(schema_of(schema), seed, most=40)) for seed in range(30)]
    assert any(json.loads(text).keys() - {"a"} for text in texts)


def test_no_blanks_can_come_for_ever(model):
    constraint = model.compiler.constraint(schema_of({"type": "array", "items": {"type": "integer"}}))
    constraint.accept(model.token("["))
    constraint.accept(model.token(" "))
    assert model.token(" ") not in model.allowed(constraint)[0]


def test_a_schema_may_set_its_own_white_space(model):
    schema = {"type": "array", "items": {"const": 1}, "minItems": 2, "x-guidance": {"whitespace_flexible": False}}
    assert {model.text(model.write(schema_of(schema), seed, most=9)).replace("1", "") for seed in range(20)} <= {
        f"[{',' * count}]" for count in range(40)
    }


def test_options_that_are_patterns_have_no_effect(model):
    schema = {
        "type": "array",
        "items": {"const": 1},
        "minItems": 2,
        "x-guidance": {"item_separator": "", "lenient": True},
    }
    jsonschema.validate(json.loads(model.text(model.write(schema_of(schema), 0, most=9))), schema)


def test_the_end_comes_only_where_the_grammar_accepts(model):
    constraint = model.compiler.constraint(Grammar("regex", "[ab]{2}c?"))
    assert not model.ends & set(model.allowed(constraint)[0])
    constraint.accept(model.token("a"))
    assert not model.ends & set(model.allowed(constraint)[0])
    constraint.accept(model.token("b"))
    assert model.ends <= set(model.allowed(constraint)[0])
    assert not constraint.finished
    constraint.accept(max(model.ends))
    assert constraint.finished


def test_a_grammar_that_can_only_stop_is_finished_without_an_end_token(model):
    constraint = model.compiler.constraint(Grammar("regex", "ab"))
    constraint.accept(model.token("a"))
    assert not constraint.finished
    constraint.accept(model.token("b"))
    assert constraint.finished


def test_whoever_ignores_the_end_gets_it_only_when_nothing_else_can_come(model):
    for seed in range(10):
        tokens = model.write(Grammar("regex", "a{1,9}"), seed, goes_on=True)
        assert model.text(tokens) == "a" * 9
    assert set(model.write(Grammar("regex", ""), 0, goes_on=True)) <= model.ends


def test_rows_without_a_token_and_markup_are_never_allowed(model):
    (allowed,) = model.allowed(model.compiler.constraint(Grammar("regex", r"(.|\n)*")))
    assert max(allowed) < model.size - EXTRA
    assert 0 not in allowed  # <bos>


def test_a_tokenizer_may_have_tokens_that_the_model_lacks():
    backend = byte_level()
    model = Model(backend)
    narrow = backend.get_vocab_size() - 70
    vocabulary = Vocabulary.read(backend.to_str(), model.ends, narrow)
    masks = np.zeros((1, -(-narrow // 32)), dtype=np.int32)
    constraint = GrammarCompiler(vocabulary).constraint(Grammar("regex", ".*"))
    constraint.fill_masks([constraint], masks)
    assert masks.any()


def test_masks_of_many_are_the_masks_of_each(model):
    grammars = [Grammar("regex", "[ab]+"), schema_of(TREE), Grammar("regex", r"\d{3}"), Grammar("regex", "")]
    constraints = [model.compiler.constraint(g, goes_on=i % 2 == 1) for i, g in enumerate(grammars * 5)]
    assert model.allowed(*constraints) == [model.allowed(constraint)[0] for constraint in constraints]


def test_requests_with_the_same_grammar_do_not_share_their_state(model):
    first, second = (model.compiler.constraint(Grammar("regex", "ab")) for _ in range(2))
    before = model.allowed(second)
    first.accept(model.allowed(first)[0][0])
    assert model.allowed(second) == before


def test_a_token_that_is_not_allowed_breaks_its_own_constraint_and_no_other(model):
    broken, sound = (model.compiler.constraint(Grammar("regex", "[ab]{9}")) for _ in range(2))
    (allowed,) = model.allowed(sound)
    with pytest.raises(GenerationError, match="cannot go on"):
        broken.accept(next(token for token in range(model.size) if token not in allowed))
    assert model.allowed(broken, sound)[1] == allowed


def test_a_grammar_that_grows_beyond_the_limits_fails_when_it_does(model):
    too_many = {"type": "object", "properties": {f"p{i}": {"type": "boolean"} for i in range(2500)}}
    with pytest.raises(GenerationError, match=r"cannot go on: .*items"):
        model.write(schema_of(too_many), seed=0)


def test_a_bad_grammar_that_reaches_the_engine_is_refused(model):
    with pytest.raises(InvalidRequest, match="unclosed group"):
        model.compiler.constraint(Grammar("regex", "("))


def test_tokenizers_that_do_not_work_on_bytes_are_known_at_start():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(ValueError, match="decoder"):
        Vocabulary.read(backend.to_str(), {1}, 2)


def test_the_library_reads_the_embedded_models_tokenizer(smollm2_folder: Path):
    backend = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    tokens = TextTokenizer.load(smollm2_folder)
    vocabulary = Vocabulary.read(backend.to_str(), tokens.eos_ids, 49152)
    assert set(vocabulary.tokenizer.eos_tokens) == tokens.eos_ids
    # Both must take a token for the same bytes, or texts would not be what the grammar thinks they are.
    shown = [id for id in range(49152) if id not in tokens.special_ids]
    differ = [id for id in shown if vocabulary.tokenizer.decode_bytes([id]) != tokens.bytes_of(id)]
    assert not differ
