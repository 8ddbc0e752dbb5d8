"""What an engine's process makes of the model's folder, before there is a model."""

import json
import threading
from pathlib import Path

import pytest
from tiny_tokenizers import byte_level
from tokenizers import Tokenizer, models

from textgen_server.engine_process import Orders, _grammars
from textgen_server.sampling import Grammar
from textgen_server.settings import ServerOptions

SIZE = 500


@pytest.fixture(autouse=True)
def own_stack():
    before = threading.stack_size()
    yield
    threading.stack_size(before)


def orders(folder: Path, backend: Tokenizer, config: dict, **options) -> Orders:
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    return Orders.model_construct(options=ServerOptions(model_id=str(folder), **options), folder=folder)


def test_every_end_of_sequence_token_may_end_a_constrained_text(tmp_path):
    compiler = _grammars(orders(tmp_path, byte_level(), {"eos_token_id": [1, 2]}), SIZE)
    for end in (1, 2):
        constraint = compiler.constraint(Grammar("regex", "a*"))
        constraint.accept(end)
        assert constraint.finished


def test_a_model_without_such_a_token_ends_with_another_that_is_no_text(tmp_path):
    constraint = _grammars(orders(tmp_path, byte_level(), {}), SIZE).constraint(Grammar("regex", "a*"))
    constraint.accept(0)  # <bos>
    assert constraint.finished


def test_a_tokenizer_that_the_library_does_not_know_is_no_reason_not_to_start(tmp_path, caplog):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert _grammars(orders(tmp_path, words, {"eos_token_id": 1}), SIZE) is None
    assert "grammar will be refused" in caplog.text


def test_without_grammar_support_nothing_is_prepared(tmp_path):
    assert _grammars(orders(tmp_path, byte_level(), {}, disable_grammar_support=True), SIZE) is None
