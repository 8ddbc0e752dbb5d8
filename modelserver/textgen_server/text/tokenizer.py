"""Text to token ids and the bytes of each id, from the model's tokenizer.json. Called by prompt.py and detokenizer.py.

Everything here blocks; prompt.py moves the encoding of prompts off the event loop.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tokenizers

from textgen_server.errors import CheckpointError, ModelSourceError
from textgen_server.text.files import read_json, token_text, tokenizer_config

# One prompt is encoded per call, in our own threads; the library's pool would only compete with them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte (Radford et al. 2019), as character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()


@dataclass(frozen=True)
class TextToken:
    """A token of a text and where it lies: `start` and `stop` are UTF-8 byte offsets, equal for added tokens."""

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        bos_token, eos_token: their texts, for chat templates; None where the model has none.
        bos_id: id of `bos_token`, or None.
        eos_ids: every id that ends a generation.
        added_tokens: ids of the tokens that stand for a text as a whole, by that text; the special ones among them.
        special_ids: ids that are markup, not text.
        size: how many tokens it has; the model may have fewer.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, bos_token: str | None, eos_token: str | None, eos_ids: frozenset[int]
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.bos_id = None if bos_token is None else backend.token_to_id(bos_token)
        self.eos_ids = eos_ids
        self.size = backend.get_vocab_size()
        added = backend.get_added_tokens_decoder()
        self.added_tokens = {token.content: id for id, token in added.items()}
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._anchor = self._find_anchor()
        self._anchor_length = len(self.decode(self._anchor))
        self._bytes: dict[int, bytes] = {}
        self._whole_texts: dict[int, str | None] = {}

    @classmethod
    def load(cls, folder: Path, config_override: str | None = None) -> Self:
        """The tokenizer of a model folder.

        Raises:
            StartupError: tokenizer.json is missing, or larger than the model's vocabulary, or a file is damaged.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelSourceError(
                f"{path} is missing; textgen needs the fast tokenizer's file "
                "(transformers writes it with AutoTokenizer.from_pretrained(...).save_pretrained(...))"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        _check_size(path, backend)
        config = tokenizer_config(folder, config_override)
        eos_token = token_text(config, "eos_token")
        eos_ids = _declared_eos_ids(folder)
        if eos_token is not None and (eos_id := backend.token_to_id(eos_token)) is not None:
            eos_ids |= {eos_id}
        return cls(backend, token_text(config, "bos_token"), eos_token, eos_ids)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Releases the GIL while it works."""
        # The batched call without offsets is three times as fast as encode() and holds the GIL for far shorter.
        encoding = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        return list(encoding.ids)

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[TextToken]:
        """Tokens of `text`, with their places."""
        encoding = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        at = _byte_offsets(text)
        return [
            TextToken(id, text[start:stop], at[start], at[stop])
            for id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens included."""
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def bytes_of(self, id: int) -> bytes:
        """What token `id` adds to a text that has already begun, in UTF-8; may be a part of a character, and is empty
        for ids outside the vocabulary."""
        known = self._bytes.get(id)
        if known is None:
            known = self._bytes[id] = self._compute_bytes(id)
        return known

    def text_of(self, id: int) -> str:
        """The text of token `id` alone; U+FFFD stands for bytes that are only a part of a character."""
        return self.bytes_of(id).decode(errors="replace")

    def whole_text_of(self, id: int) -> str | None:
        """What token `id` adds to a text that has already begun, where that is whole characters, else None."""
        try:
            return self._whole_texts[id]
        except KeyError:
            text = self._whole_texts[id] = _whole_text(self.bytes_of(id))
            return text

    def _compute_bytes(self, id: int) -> bytes:
        piece = self._backend.id_to_token(id)
        if piece is None:
            return b""
        # Behind an anchor, because decoders strip the space of a text's first word.
        text = self.decode([*self._anchor, id])[self._anchor_length :]
        if REPLACEMENT not in text:
            return text.encode()
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        if all(character in _BYTE_OF for character in piece):
            return bytes(_BYTE_OF[character] for character in piece)
        return text.encode()

    def _find_anchor(self) -> list[int]:
        """One token that is a plain word, as context for others; empty when the vocabulary has none."""
        for id in range(self._backend.get_vocab_size()):
            piece = self._backend.id_to_token(id)
            if piece is None or id in self.special_ids or _BYTE_PIECE.fullmatch(piece):
                continue
            text = self.decode([id])
            if text.isascii() and text.isalnum():
                return [id]
        return []


def _whole_text(utf8: bytes) -> str | None:
    try:
        return utf8.decode()
    except UnicodeDecodeError:
        return None


def _check_size(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Tokens that were added may be more than the model has, as they are in some multimodal models' text halves."""
    config = read_json(path.with_name("config.json"))
    inner = config.get("text_config")
    known = (inner if isinstance(inner, dict) else config).get("vocab_size")
    size = backend.get_vocab_size(with_added_tokens=False)
    if type(known) is int and size > known:
        raise CheckpointError(
            f"{path} has {size} tokens, and config.json says vocab_size {known}: they are of different models"
        )


def _declared_eos_ids(folder: Path) -> frozenset[int]:
    """eos_token_id of generation_config.json, else of config.json: a number or a list of them."""
    for name in ("generation_config.json", "config.json"):
        declared: Any = read_json(folder / name).get("eos_token_id")
        if declared is not None:
            ids = declared if isinstance(declared, list) else [declared]
            if not all(type(id) is int and id >= 0 for id in ids):
                raise CheckpointError(
                    f"{folder / name}: eos_token_id must be a token's number or a list of them, not {declared!r}"
                )
            return frozenset(ids)
    return frozenset()


def _byte_offsets(text: str) -> range | list[int]:
    """UTF-8 offset of each character of `text`, and the length at the end."""
    if text.isascii():
        return range(len(text) + 1)
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    return offsets
