import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import transformers
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import SPECIAL_TOKENS, USER_TOKEN, add_byte_level_tokenizer, byte_alphabet, byte_level_tokens, write_gguf
from tokenizers import Tokenizer

from textgen_server.errors import CheckpointError
from textgen_server.weights.gguf_file import GgufFile
from textgen_server.weights.gguf_tokenizer import write_tokenizer

AddTokenizer = Callable[[GGUFWriter], None]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's rules: patterns that cut the text one after the other.
PATTERNS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
}
TEXTS = [
    "Hello, world! I'll say it's DON'T.",
    "  two  spaces and trailing   ",
    "tabs\tand\r\n\r\nnewlines\n\n\n\t \n x",
    "def f(x):\n    return x**2  # 12345 ½ ² Ⅷ ١٢٣٤ 一二三",
    "naïve café e\u0301 Größe нещо на Български កាន់តែ 我想在apple工作1314151天～",
    "🚀 (normal) 😶\u200d🌫️ 👨\u200d👩\u200d👧 ✅",
    "<|im_start|>user\n3.3 3..3 3...3<|im_end|>\n",
    "\x00\x7f\xa0\u2028\ufeff",
    "'''```\"\"\"!!!!????  ''S 'LL'",
    "",
]


def tokenizer_of(folder: Path, add: AddTokenizer = add_byte_level_tokenizer) -> Tokenizer:
    """The tokenizer that comes out of a .gguf file whose tokenizer `add` writes."""
    write_tokenizer(GgufFile(write_gguf(folder / "m.gguf", {}, tokenizer=add)), folder, 512)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def cut(text: str, patterns: Sequence[str]) -> list[str]:
    """`text` cut by each pattern in turn; what a pattern does not match stays as a piece."""
    pieces = [text]
    for pattern in patterns:
        pieces = [part for piece in pieces for part in regex.split(f"({pattern})", piece) if part]
    return pieces


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {
        pre: tokenizer_of(tmp_path_factory.mktemp(pre), lambda writer, pre=pre: add_byte_level_tokenizer(writer, pre))
        for pre in PATTERNS
    }


@pytest.mark.parametrize("pre", PATTERNS)
@settings(deadline=None, max_examples=200)
@given(text=st.text(st.sampled_from("aZéß我ក \t\r\n\u00a0\u2028'sLlRe12½٣Ⅷ.!=🚀_\u0301\u200d\x00"), max_size=30))
def test_text_is_cut_where_llama_cpp_cuts_it(tokenizers: dict[str, Tokenizer], pre: str, text: str) -> None:
    pieces = tokenizers[pre].pre_tokenizer.pre_tokenize_str(text)

    assert [text[start:end] for _, (start, end) in pieces] == cut(text, PATTERNS[pre])


@pytest.mark.parametrize("pre", PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizers: dict[str, Tokenizer], pre: str, text: str) -> None:
    ids = tokenizers[pre].encode(text, add_special_tokens=False).ids

    expected = tokenizers[pre].normalizer.normalize_str(text) if tokenizers[pre].normalizer else text
    assert tokenizers[pre].decode(ids, skip_special_tokens=False) == expected


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_ids_equal_those_of_transformers(tmp_path: Path, pre: str) -> None:
    ours = tokenizer_of(tmp_path, lambda writer: add_byte_level_tokenizer(writer, pre))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")

    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False)


def merged(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-level BPE by the book: while any neighbours can be merged, merge the pair of the lowest rank."""
    alphabet = byte_alphabet()
    symbols = [alphabet[byte] for byte in piece.encode()]
    while len(symbols) > 1:
        pairs = list(pairwise(symbols))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        symbols[at : at + 2] = ["".join(best)]
    return symbols


def test_smollm2_encodes_as_bpe_by_the_book(smollm2_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    content = json.loads((smollm2_folder / "tokenizer.json").read_text())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(content["merges"])}

    for text in TEXTS:
        text = text.replace("<|", "< |")
        symbols = [symbol for piece in cut(text, PATTERNS["smollm"]) for symbol in merged(piece, ranks)]
        # Some bytes that hardly occur in text are no tokens of this vocabulary; they are dropped.
        expected = [content["vocab"][symbol] for symbol in symbols if symbol in content["vocab"]]
        assert tokenizer.encode(text).ids == expected


def test_smollm2_sees_each_digit_apart_and_special_tokens_whole(smollm2_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))

    assert tokenizer.encode("in 2024<|im_end|>\n").tokens == ["in", "Ġ", "2", "0", "2", "4", "<|im_end|>", "Ċ"]
    assert tokenizer.get_vocab_size() == 49152


def test_transformers_reads_the_same_tokenizer_and_chat_template(smollm2_folder: Path) -> None:
    ours = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_folder)

    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text).ids
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    messages = [{"role": "user", "content": "Hi"}]
    prompt = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_special_tokens_are_skipped_in_decoding_and_user_defined_ones_are_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)

    encoding = tokenizer.encode(f"hello {USER_TOKEN}<|im_end|>")

    assert encoding.tokens == ["hello", "Ġ", USER_TOKEN, "<|im_end|>"]
    assert tokenizer.decode(encoding.ids) == f"hello {USER_TOKEN}"


@pytest.mark.parametrize(
    ("pre", "flags", "tokens"),
    [
        ("smollm", {}, ["hello"]),
        ("llama-bpe", {}, ["<|im_start|>", "hello"]),
        ("llama-bpe", {"bos": False}, ["hello"]),
        ("smollm", {"bos": True}, ["<|im_start|>", "hello"]),
        ("smollm", {"eos": True}, ["hello", "<|im_end|>"]),
        ("smollm", {"bos": True, "eos": True}, ["<|im_start|>", "hello", "<|im_end|>"]),
    ],
)
def test_text_begins_and_ends_as_the_file_says(
    tmp_path: Path, pre: str, flags: dict[str, bool], tokens: list[str]
) -> None:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer, pre)
        if "bos" in flags:
            writer.add_add_bos_token(flags["bos"])
        if "eos" in flags:
            writer.add_add_eos_token(flags["eos"])

    assert tokenizer_of(tmp_path, add).encode("hello").tokens == tokens


def test_several_chat_templates_keep_their_names(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        writer.add_array("tokenizer.chat_templates", ["tool_use"])
        writer.add_string("tokenizer.chat_template.tool_use", "{{ tools }}")

    tokenizer_of(tmp_path, add)

    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == [
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "default", "template": "{{ messages[0].content }}"},
    ]


PIECES = {"▁": -5.0, "h": -9.0, "e": -9.1, "l": -9.2, "o": -9.3, "he": -1.0, "ll": -2.0, "llo": -3.0, "hello": -4.0}
PIECES |= {"▁hello": -6.0, "el": -0.5, "▁▁": -1e9, "▁he": -1.0, "lo": -2.5}


def add_sentencepiece(writer: GGUFWriter) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(PIECES))
    writer.add_token_scores([0.0] * 259 + list(PIECES.values()))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def sentencepiece(text: str) -> list[str]:
    """SentencePiece's BPE by the book: merge the leftmost pair of the best score; what is no piece becomes bytes."""
    symbols = list(("▁" + text.replace(" ", "▁")) if text else "")
    while True:
        joined = [left + right for left, right in pairwise(symbols)]
        candidates = [symbol for symbol in joined if symbol in PIECES]
        if not candidates:
            break
        at = joined.index(max(candidates, key=PIECES.__getitem__))
        symbols[at : at + 2] = [joined[at]]
    bytes_of = [[symbol] if symbol in PIECES else [f"<0x{b:02X}>" for b in symbol.encode()] for symbol in symbols]
    return [token for tokens in bytes_of for token in tokens]


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.sampled_from("helo é🚀\n"), max_size=20))
def test_sentencepiece_vocabularies_encode_by_the_book(sentencepiece_tokenizer: Tokenizer, text: str) -> None:
    encoding = sentencepiece_tokenizer.encode(text)

    assert encoding.tokens == ["<s>", *sentencepiece(text)]
    assert sentencepiece_tokenizer.decode(encoding.ids) == text


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("sentencepiece"), add_sentencepiece)


def test_a_vocabulary_without_space_prefix_does_not_get_one(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        add_sentencepiece(writer)
        writer.add_add_space_prefix(False)

    tokenizer = tokenizer_of(tmp_path, add)

    assert tokenizer.encode("he he").tokens == ["<s>", "he", "▁he"]
    assert tokenizer.decode(tokenizer.encode(" he").ids) == " he"


def with_pre(name: str) -> AddTokenizer:
    return lambda writer: add_byte_level_tokenizer(writer, name)


def with_model(name: str) -> AddTokenizer:
    return lambda writer: writer.add_tokenizer_model(name)


def with_array(key: str, values: list[object]) -> AddTokenizer:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        del writer.kv_data[0][key]
        if values:
            writer.add_array(key, values)

    return add


def with_begin(id: int) -> AddTokenizer:
    def add(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        del writer.kv_data[0]["tokenizer.ggml.bos_token_id"]
        writer.add_bos_token_id(id)

    return add


@pytest.mark.parametrize(
    ("add", "complaint"),
    [
        (with_pre("tekken"), r"pre-tokenizer 'tekken' is not supported \(supported: gpt-2, smollm"),
        (with_model("t5"), r"tokenizer 't5' is not supported \(supported: gpt2, llama\)"),
        (with_array("tokenizer.ggml.pre", []), r"the metadata lacks tokenizer\.ggml\.pre"),
        (with_array("tokenizer.ggml.merges", []), r"the metadata lacks tokenizer\.ggml\.merges"),
        (with_array("tokenizer.ggml.merges", ["h zz"]), "vocabulary and merges do not fit"),
        (with_array("tokenizer.ggml.tokens", ["a", "b", "a"]), "1 tokens appear twice"),
        (with_array("tokenizer.ggml.token_type", [1, 1]), "2 types"),
        (with_begin(9999), r"tokenizer\.ggml\.bos_token_id is 9999, beyond the vocabulary"),
    ],
)
def test_a_tokenizer_that_cannot_be_right_is_refused(tmp_path: Path, add: AddTokenizer, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        tokenizer_of(tmp_path, add)


def test_the_tiny_vocabulary_is_complete() -> None:
    tokens = byte_level_tokens()

    assert len(set(byte_alphabet())) == 256
    assert len(set(tokens)) == len(tokens) == 256 + len(SPECIAL_TOKENS) + 7
