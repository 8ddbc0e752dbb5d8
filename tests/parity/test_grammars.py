"""Constrained and marked texts of a tiny random model, whose every token is as likely as any other: they fit their
grammars, and are the same alone, in a batch, and after a preemption."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from harness import make_runner, run
from shapes import LLAMA, Shape, save_checkpoint
from tiny_tokenizers import byte_fallback

from textgen_server.engine.constraints import GrammarCompiler, Vocabulary
from textgen_server.engine.request import Finish, Request
from textgen_server.sampling import Grammar, SamplingParams
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.watermark import PUBLIC

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{2,6}$"},
        "kind": {"enum": ["cat", "dog", None]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind"],
}
PATTERN = r"\d{1,3}(\.\d{1,3}){3}"
GRAMMARS = [None, Grammar("json_schema", json.dumps(SCHEMA)), Grammar("regex", PATTERN), None]


@dataclass
class Tiny:
    """A model with its tokenizer."""

    folder: Path

    def __post_init__(self) -> None:
        backend = byte_fallback()
        save_checkpoint(Shape(LLAMA, {"vocab_size": backend.get_vocab_size() + 11}), self.folder)
        self.ends = frozenset(backend.token_to_id(text) for text in ("<eos>", "<end>"))
        self.tokenizer = Tokenizer(backend, None, None, self.ends)
        self.runner = make_runner(self.folder, block_size=4)
        vocabulary = Vocabulary.read(backend.to_str(), self.ends, self.runner.loaded.config.vocab_size)
        self.compiler = GrammarCompiler(vocabulary)

    def request(self, key: int, grammar: Grammar | None, **params) -> Request:
        settings = SamplingParams(**{"greedy": False, "seed": key} | params)
        constraint = grammar and self.compiler.constraint(grammar)
        return Request(0, [3 + key % 7] * (5 + key % 3), 90, settings, self.ends, constraint=constraint)

    def text(self, tokens: list[int]) -> str:
        return b"".join(self.tokenizer.bytes_of(token) for token in tokens if token not in self.ends).decode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def fits(grammar: Grammar, text: str) -> None:
    if grammar.kind == "regex":
        assert re.fullmatch(PATTERN, text)
    else:
        jsonschema.validate(json.loads(text), SCHEMA)


def together(tiny: Tiny, **how):
    requests = [tiny.request(key, GRAMMARS[key % 4]) for key in range(32)]
    for place, request in enumerate(requests):
        request.key = place
    return run(tiny.runner, requests, **how)


def test_constrained_texts_fit_their_grammars_in_a_mixed_batch_and_end_by_themselves(tiny):
    result = together(tiny)
    for key, outputs in enumerate(result.outputs):
        if grammar := GRAMMARS[key % 4]:
            fits(grammar, tiny.text([output.token for output in outputs]))
            assert outputs[-1].finish is Finish.END_OF_SEQUENCE
            assert all(output.logprob > float("-inf") for output in outputs)


def test_the_same_seed_gives_the_same_text_alone_in_a_batch_and_after_a_preemption(tiny):
    expected = [run(tiny.runner, [tiny.request(key, GRAMMARS[key % 4])]).texts[0] for key in range(32)]
    assert together(tiny).texts == expected
    squeezed = together(tiny, num_blocks=60, prefill=16)
    assert squeezed.preemptions > 0
    assert squeezed.texts == expected


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_any_seed_at_temperature_one_gives_what_fits(tiny, seed):
    for grammar in GRAMMARS[1:3]:
        fits(grammar, tiny.text(run(tiny.runner, [tiny.request(seed, grammar)]).texts[0]))


def test_penalties_filters_and_bias_cannot_lead_out_of_a_grammar(tiny):
    params = {"top_k": 2, "top_p": 0.5, "repetition_penalty": 3.0, "logit_bias": ((9, 100.0), (40, -100.0))}
    for key, grammar in itertools.product(range(4), GRAMMARS[1:3]):
        fits(grammar, tiny.text(run(tiny.runner, [tiny.request(key, grammar, **params)]).texts[0]))


def test_a_text_that_can_only_stop_ends_although_ends_are_ignored(tiny):
    constraint = tiny.compiler.constraint(Grammar("regex", "(ab){3,5}"), goes_on=True)
    (outputs,) = run(tiny.runner, [Request(0, [5, 6], 90, SamplingParams(seed=1), constraint=constraint)]).outputs
    tokens = [output.token for output in outputs]
    assert tiny.text(tokens) == "ab" * 5
    assert not tiny.ends & set(tokens)
    assert outputs[-1].finish is Finish.END_OF_SEQUENCE


def green_share(tokens: list[int]) -> float:
    pairs = list(itertools.pairwise(tokens))
    return sum(PUBLIC.is_green(*pair) for pair in pairs) / len(pairs)


def test_a_marked_text_is_green_and_its_neighbour_in_the_batch_is_as_it_was(tiny):
    plain = run(tiny.runner, [tiny.request(1, None)]).texts[0]
    requests = [tiny.request(key, None, watermark=True) for key in (2, 3)] + [tiny.request(1, None)]
    for place, request in enumerate(requests):
        request.key = place
    marked, also_marked, neighbour = run(tiny.runner, requests).texts
    assert neighbour == plain
    assert green_share(plain) < 0.65
    assert green_share(marked + also_marked) > 0.75


def test_a_mark_needs_no_draw_and_keeps_to_the_grammar(tiny):
    greedy = {"greedy": True, "watermark": True}
    marked = run(tiny.runner, [tiny.request(5, None, **greedy)]).texts[0]
    assert green_share(marked) > 0.8
    for key in range(4):
        fits(GRAMMARS[1], tiny.text(run(tiny.runner, [tiny.request(key, GRAMMARS[1], watermark=True)]).texts[0]))
