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
        self._utf8 = _new_decoder(errors="replace")

    def push(self, id: int) -> str:
        """The characters that token `id` completes; "" while its bytes are only a part of one."""
        return self._utf8.decode(self._bytes_of(id))

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for an incomplete character, else ""."""
        return self._utf8.decode(b"", final=True)
