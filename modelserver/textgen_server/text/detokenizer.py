"""Token ids to text, one at a time. One `Detokenizer` belongs to one generation (generation.py).

The pieces of a generation always add up to the UTF-8 decoding of its tokens' bytes, with U+FFFD for what is not UTF-8.
"""

import codecs

from textgen_server.text.tokenizer import Tokenizer

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Text of tokens that continue a prompt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._whole_text_of = tokenizer.whole_text_of
        self._utf8 = _new_decoder(errors="replace")
        self._in_character = False

    def push(self, id: int) -> str:
        """The characters that token `id` completes; "" while its bytes are only a part of one."""
        if not self._in_character and (text := self._whole_text_of(id)) is not None:
            return text
        text = self._utf8.decode(self._bytes_of(id))
        self._in_character = self._utf8.getstate()[0] != b""
        return text

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for an incomplete character, else ""."""
        return self._utf8.decode(b"", final=True)
