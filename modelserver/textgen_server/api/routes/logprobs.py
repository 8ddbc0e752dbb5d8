"""Log-probabilities in OpenAI's two shapes. Used by completions.py and chat.py."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from textgen_server.rpc.client import Alternatives
from textgen_server.text.detokenizer import Detokenizer
from textgen_server.text.generation import Generation, Piece
from textgen_server.text.tokenizer import Tokenizer

_LEAST = -9999.0  # what OpenAI says of tokens that cannot come; JSON has no infinity


class PlacedPieces:
    """The pieces of an answer whose text is out, and where it begins. Text that a stop string removes is not out, nor
    are special tokens text."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Piece]] = deque()
        self._generated = 0  # characters
        self._out = 0

    def push(self, piece: Piece) -> list[tuple[int, Piece]]:
        """(place in the text, piece) of those whose text came out with this piece."""
        if not piece.special:
            self._waiting.append((self._generated, piece))
            self._generated += len(piece.text)
        self._out += len(piece.delta)
        ready = []
        while self._waiting and self._waiting[0][0] < self._out:
            ready.append(self._waiting.popleft())
        return ready


def chat_logprobs(pieces: Iterable[Piece], tokenizer: Tokenizer, top: int) -> list[dict[str, Any]]:
    """Entries of `logprobs.content`, each with the `top` likeliest tokens of its place."""

    def entry(id: int, logprob: float) -> dict[str, Any]:
        spelled = tokenizer.bytes_of(id)
        return {"token": _spelled(spelled, ""), "logprob": max(logprob, _LEAST), "bytes": list(spelled)}

    return [
        {**entry(piece.id, piece.logprob), "top_logprobs": [entry(*other) for other in piece.top[:top]]}
        for piece in pieces
    ]


class CompletionTokens:
    """The four lists of a completion's `logprobs`.

    Args:
        top: as many of the likeliest tokens, of each place.
    """

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._texts: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, generation: Generation, text: str) -> None:
        """The tokens of a prompt, which is echoed as `text`."""
        ids, start = generation.prompt.ids, generation.start
        tops = start.prompt_tops or [()] * len(start.prompt_logprobs)
        offsets = _offsets(ids, text, self._tokenizer)
        self._add(ids[0], None, (), offsets[0])
        for place, (logprob, alternatives) in enumerate(zip(start.prompt_logprobs, tops, strict=True), 1):
            self._add(ids[place], logprob, alternatives, offsets[place])

    def add(self, placed: Sequence[tuple[int, Piece]], shift: int) -> None:
        """Generated tokens, `shift` characters after the beginning of the choice's text."""
        for place, piece in placed:
            self._add(piece.id, piece.logprob, piece.top, shift + place)

    def take(self) -> dict[str, Any]:
        """The lists so far; then they are empty."""
        lists = {
            "tokens": self._texts,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._tops,
            "text_offset": self._offsets,
        }
        self._texts, self._logprobs, self._tops, self._offsets = [], [], [], []
        return lists

    def _add(self, id: int, logprob: float | None, alternatives: Alternatives, offset: int) -> None:
        self._texts.append(self._text(id))
        self._offsets.append(offset)
        if logprob is None:
            self._logprobs.append(None)
            self._tops.append(None)
            return
        # The token itself is always among them.
        likeliest = (*alternatives[: self._top], (id, logprob))
        self._logprobs.append(max(logprob, _LEAST))
        self._tops.append({self._text(other): max(value, _LEAST) for other, value in likeliest})

    def _text(self, id: int) -> str:
        return _spelled(self._tokenizer.bytes_of(id), "bytes:")


def _offsets(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> list[int]:
    """Where each token of a prompt begins in its text, in characters."""
    detokenizer, offset, offsets = Detokenizer(tokenizer), 0, []
    for id in ids:
        offsets.append(offset)
        offset += len(detokenizer.push(id))
    # Tokens may begin with what the text does not have: a BOS, and SentencePiece's blank before the first word.
    surplus = max(offset - len(text), 0)
    return [max(each - surplus, 0) for each in offsets]


def _spelled(text: bytes, prefix: str) -> str:
    """A token's text; what is no UTF-8 as `prefix` and escapes."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in text)
