"""Tokenizers are read from the model's own files, or refused with a sentence that names what is wrong."""

import json
from pathlib import Path

import pytest
from front import write_model_folder

from textgen_server.errors import StartupError
from textgen_server.text.tokenizer import Tokenizer


def test_encoding_adds_special_tokens_unless_told_not_to(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode("the fox", add_special_tokens=False)
    assert tokenizer.encode("the fox") == [tokenizer.bos_id, *plain]
    assert tokenizer.decode(plain) == "the fox"


def test_special_tokens_in_a_text_are_special(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<eos>b", add_special_tokens=False)
    assert tokenizer.eos_ids & set(ids)
    assert tokenizer.eos_ids < tokenizer.special_ids


def test_end_of_sequence_is_every_declared_token(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    assert Tokenizer.load(folder).eos_ids == {1}
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert Tokenizer.load(folder).eos_ids == {1, 7}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert Tokenizer.load(folder).eos_ids == {1, 2, 5}


def test_a_model_may_have_no_bos_and_no_config(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.bos_token is tokenizer.bos_id is tokenizer.eos_token is None
    assert tokenizer.eos_ids == frozenset()


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<bos>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    text = "the quick brown fox jumps over the lazy dog"
    assert Tokenizer.load(folder).decode(Tokenizer.load(folder).encode(text, add_special_tokens=False)) == text


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{}"), ("tokenizer.json", "no json"), ("tokenizer_config.json", "{"), ("config.json", "[1]")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = write_model_folder(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(StartupError, match=name):
        Tokenizer.load(folder)


@pytest.mark.parametrize("ids", ['"2"', "{}", "[[1]]", "-1", "true"])
def test_an_end_that_is_no_token_is_named(tmp_path: Path, ids: str) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {ids}}}')
    with pytest.raises(StartupError, match=r"generation_config\.json: eos_token_id must be a token's number"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("config", ['{"vocab_size": 100}', '{"text_config": {"vocab_size": 100}, "vocab_size": 999}'])
def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path, config: str) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "config.json").write_text(config)
    with pytest.raises(StartupError, match=r"tokenizer\.json has \d+ tokens, and config\.json says vocab_size 100"):
        Tokenizer.load(folder)


def test_a_missing_override_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--tokenizer-config-path"):
        Tokenizer.load(write_model_folder(tmp_path), str(tmp_path / "absent.json"))


def test_places_are_byte_offsets(tokenizer: Tokenizer) -> None:
    text = "é the 🦊"
    tokens = tokenizer.tokenize(text)
    assert tokens[0].start == tokens[0].stop == 0
    covered = {index for token in tokens for index in range(token.start, token.stop)}
    assert covered == set(range(len(text.encode())))
