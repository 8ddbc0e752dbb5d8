"""tokenizer.json and tokenizer_config.json from a GGUF file's metadata. Called by gguf.py.

GGUF stores the vocabulary, the merges (or scores) and the name of a pre-tokenizer; how that name splits text is
knowledge that lives outside the file. Here are the pre-tokenizers whose result has been compared with the original
tokenizers' token for token; a file that names another is refused, because a wrong split gives a model that answers,
but worse.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import write_json
from textgen_server.weights.gguf_file import GgufFile

_SPACE = "\u2581"  # how SentencePiece spells a space
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_OR_SPACE = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class TokenType(IntEnum):
    """Values of tokenizer.ggml.token_type whose tokens are matched in the text before it is split."""

    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _gpt2_single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _split_digits(digits: str) -> pre_tokenizers.PreTokenizer:
    """Llama 3's rule and its relatives; `digits` says how many digits stay together."""
    pattern = Regex(f"{_CONTRACTION}|{_WORD_OR_SPACE % digits}")
    split = pre_tokenizers.Split(pattern, behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _gpt2_single_digits,
    "refact": _gpt2_single_digits,
    "starcoder": _gpt2_single_digits,
    "llama-bpe": lambda: _split_digits(r"\p{N}{1,3}"),
    "qwen2": lambda: _split_digits(r"\p{N}"),
}


def write_tokenizer(source: GgufFile, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`.

    Raises CheckpointError when the file's tokenizer is incomplete or of a kind that is not supported.
    """
    kind = source.need("tokenizer.ggml.model", str)
    if kind not in _BUILDERS:
        raise CheckpointError(f"{source.path}: tokenizer {kind!r} is not supported (supported: {', '.join(_BUILDERS)})")
    try:
        tokenizer = _BUILDERS[kind](source)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"{source.path}: the tokenizer's vocabulary and merges do not fit: {error}") from error
    _add_special_tokens(tokenizer, source)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder, "tokenizer_config.json", _config(source, max_length))


def _byte_level(source: GgufFile) -> Tokenizer:
    """BPE over bytes, as in GPT-2 (`tokenizer.ggml.model` is "gpt2")."""
    name = source.need("tokenizer.ggml.pre", str)
    if name not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise CheckpointError(f"{source.path}: pre-tokenizer {name!r} is not supported (supported: {known})")
    merges = [_pair(merge) for merge in source.need("tokenizer.ggml.merges", list)]
    llama3 = name == "llama-bpe"  # whole words first, and a beginning-of-text token unless the file says otherwise
    tokenizer = Tokenizer(models.BPE(_vocabulary(source), merges, ignore_merges=llama3))
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[name]()
    tokenizer.decoder = decoders.ByteLevel()
    _add_template(tokenizer, source, begin_by_default=llama3)
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentencepiece(source: GgufFile) -> Tokenizer:
    """SentencePiece's BPE, as in Llama 2 (`tokenizer.ggml.model` is "llama")."""
    vocabulary = _vocabulary(source)
    scores = source.need("tokenizer.ggml.scores", list)
    merges = merges_from_scores(vocabulary, dict(zip(vocabulary, scores, strict=True)))
    unknown = _token(source, "unknown") or "<unk>"
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefixed = source.find("tokenizer.ggml.add_space_prefix", bool) is not False
    prepend = [normalizers.Prepend(_SPACE)] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", left=1)] if prefixed else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _add_template(tokenizer, source, begin_by_default=True)
    return tokenizer


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece}


def merges_from_scores(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores imply, best first.

    Each way to cut a token into two tokens is a merge, and the token's score is its rank; those of equal score are in
    the order of their parts' ids, as in the tokenizer.json files of the Llama 2 family.
    """
    merges: list[tuple[str, str]] = []
    for token in sorted(scores, key=scores.__getitem__, reverse=True):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        whole = [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]
        merges += sorted(whole, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
    return merges


def _vocabulary(source: GgufFile) -> dict[str, int]:
    tokens = source.need("tokenizer.ggml.tokens", list)
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise CheckpointError(f"{source.path}: {len(tokens) - len(vocabulary)} tokens appear twice in the vocabulary")
    return vocabulary


def _token(source: GgufFile, role: str) -> str | None:
    """The text of the token with a role ("bos", "eos", "unknown", "padding"), or None when the file names none."""
    id = source.find(f"tokenizer.ggml.{role}_token_id", int)
    tokens = source.need("tokenizer.ggml.tokens", list)
    if id is None:
        return None
    if not 0 <= id < len(tokens):
        raise CheckpointError(f"{source.path}: tokenizer.ggml.{role}_token_id is {id}, beyond the vocabulary")
    return str(tokens[id])


def _add_special_tokens(tokenizer: Tokenizer, source: GgufFile) -> None:
    """Register the tokens that BPE must not take apart; user-defined ones are plain text, the others are special."""
    tokens = source.need("tokenizer.ggml.tokens", list)
    types = source.need("tokenizer.ggml.token_type", list)
    if len(types) != len(tokens):
        raise CheckpointError(f"{source.path}: {len(tokens)} tokens, but {len(types)} types of tokens")
    matched = frozenset(TokenType)
    added = [
        AddedToken(token, normalized=False, special=type != TokenType.USER_DEFINED)
        for token, type in zip(tokens, types, strict=True)
        if type in matched
    ]
    tokenizer.add_tokens(added)


def _add_template(tokenizer: Tokenizer, source: GgufFile, begin_by_default: bool) -> None:
    """Put the beginning and end of text around encodings where the file asks for it."""
    begin = source.find("tokenizer.ggml.add_bos_token", bool)
    before = _token(source, "bos") if (begin_by_default if begin is None else begin) else None
    after = _token(source, "eos") if source.find("tokenizer.ggml.add_eos_token", bool) else None
    added = [token for token in (before, after) if token is not None]
    if added:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[part for part in (before, "$A", after) if part is not None],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in added],
        )


def _config(source: GgufFile, max_length: int) -> dict[str, Any]:
    """tokenizer_config.json. The class is the one that takes tokenizer.json as it is."""
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config: dict[str, Any] = {name: _token(source, role) for name, role in roles.items()}
    config["chat_template"] = _chat_template(source)
    config = {name: value for name, value in config.items() if value is not None}
    return config | {
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _chat_template(source: GgufFile) -> str | list[dict[str, str]] | None:
    """The template, or, where there are several, a list of them by name."""
    default = source.find("tokenizer.chat_template", str)
    names = source.find("tokenizer.chat_templates", list)
    if not names:
        return default
    named = {name: source.need(f"tokenizer.chat_template.{name}", str) for name in names}
    if default is not None:
        named["default"] = default
    return [{"name": name, "template": template} for name, template in named.items()]
