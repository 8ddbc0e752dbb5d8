"""Pieces of text come as soon as their characters are whole, and add up to the whole text, for every kind of
tokenizer."""

import random

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from textgen_server.text.detokenizer import Detokenizer
from textgen_server.text.tokenizer import Tokenizer

TEXTS = [
    "the quick brown fox",
    "  spaces  and\n\nlines\t",
    "emoji 👩‍👩‍👧 and 🏳️‍🌈!",
    "中文字 と 日本語",
    "naïve café",
    "a replacement \N{REPLACEMENT CHARACTER} in the text",
    "",
]


def sentencepiece() -> Tokenizer:
    """A tokenizer as Llama 2's: spaces as ▁, unknown characters as bytes, the first space stripped by the decoder."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "中"]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, "<s>", "</s>", frozenset({2}))


def metaspace() -> Tokenizer:
    """A tokenizer as T5's: unigrams with ▁."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("▁fox", -1.0), *((c, -5.0) for c in "abcdefghijklmnopqr")]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return Tokenizer(backend, None, None, frozenset())


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(id) for id in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_text_with_byte_level_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, ids)) == text == tokenizer.decode(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_add_up_to_the_text_with_byte_fallback(text: str) -> None:
    # The text goes on behind a prompt, so its first space, which the tokenizer itself puts there, stays.
    tokenizer = sentencepiece()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, ids)) == (" " + text if text else "")
    assert tokenizer.decode(ids) == text


def test_words_keep_the_space_that_they_begin_with() -> None:
    tokenizer = metaspace()
    assert pieces_of(tokenizer, tokenizer.encode("the fox fade")) == [" the", " fox", " ", "f", "a", "d", "e", ""]


@pytest.mark.parametrize("character", ["é", "中", "🦊"])
def test_a_character_of_several_tokens_comes_with_the_last(tokenizer: Tokenizer, character: str) -> None:
    ids = tokenizer.encode(character, add_special_tokens=False)
    assert len(ids) == len(character.encode())
    assert pieces_of(tokenizer, ids) == [""] * (len(ids) - 1) + [character, ""]


def test_a_text_that_ends_inside_a_character_loses_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("fox🦊", add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, ids[:-1])) == "fox\N{REPLACEMENT CHARACTER}"


def test_random_tokens_decode_as_their_bytes(tokenizer: Tokenizer) -> None:
    """Also where the bytes are no UTF-8, and as the library decodes them at once."""
    choose = random.Random(0)
    for _ in range(300):
        ids = [choose.randrange(3, 330) for _ in range(choose.randrange(1, 40))]
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_broken_bytes_do_not_swallow_their_neighbours() -> None:
    tokenizer = sentencepiece()
    byte = {value: 3 + value for value in range(256)}
    ids = [byte[0x41], byte[0xF1], byte[0x42], byte[0xE4], byte[0xB8], byte[0xAD]]
    assert "".join(pieces_of(tokenizer, ids)) == "A\N{REPLACEMENT CHARACTER}B中"


def test_ids_outside_the_vocabulary_are_silent(tokenizer: Tokenizer) -> None:
    assert pieces_of(tokenizer, [5000, *tokenizer.encode("fox", add_special_tokens=False), 400])[-1] == ""
    assert tokenizer.bytes_of(5000) == b""
