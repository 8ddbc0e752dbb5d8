"""An answer's text to its parts, while it comes: text, and calls with their arguments. Called by the chat route.

The grammar (grammar.py) has made sure that whatever begins as a call goes on as one; only its end may be missing.
"""

import re
from collections.abc import Callable

from textgen_server.text.tools.calls import CallDelta, Delta, TextDelta
from textgen_server.text.tools.formats import CallFormat

_NAME = r"([^\"\[{]+?)"


class CallParser:
    """Splits one answer.

    Attributes:
        count: calls so far.
    """

    def __init__(self, format: CallFormat) -> None:
        self.count = 0
        self._format = format
        head = re.escape(format.before_name) + _NAME + re.escape(format.before_arguments)
        self._head = re.compile(head)
        self._rest = ""  # what came and is not yet understood
        self._object = _ObjectEnd()
        self._step: Callable[[], list[Delta] | None] = self._open_bare if format.bare else self._text

    @property
    def in_call(self) -> bool:
        """True where the text so far ends inside a call."""
        return self._step not in (self._text, self._open_bare, self._prose)

    def push(self, text: str) -> list[Delta]:
        """What `text` adds."""
        self._rest += text
        deltas: list[Delta] = []
        while (found := self._step()) is not None:
            deltas += found
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back, when nothing follows. The beginning of a call whose name was cut is dropped."""
        text = "" if self.in_call else self._rest
        if self.count:
            text = text.rstrip()
        self._rest = ""
        return [TextDelta(text)] if text else []

    # Each step returns what it found, or None when it needs more text.

    def _text(self) -> list[Delta] | None:
        opening = self._format.opening
        text, found, after = self._rest.partition(opening)
        if found:
            self._rest, self._step = after, self._begin
            text = text.rstrip()
            return [TextDelta(text)] if text else []
        if opening[0] in text or text[-1:].isspace():
            text = text[: _settled(text, opening)]
        self._rest = self._rest[len(text) :]
        return [TextDelta(text)] if text else None

    def _open_bare(self) -> list[Delta] | None:
        opening, first = self._format.opening, self._format.before_name[0]
        if self._rest.startswith((opening, first)):
            self._rest = self._rest.removeprefix(opening)
            self._step = self._begin
            return []
        if opening.startswith(self._rest):
            return None
        self._step = self._prose
        return []

    def _prose(self) -> list[Delta] | None:
        text, self._rest = self._rest, ""
        return [TextDelta(text)] if text else None

    def _begin(self) -> list[Delta] | None:
        begin = self._format.begin
        if begin and self._rest.startswith(" "):
            self._rest = self._rest[1:]
        return self._skip(begin, self._call)

    def _call(self) -> list[Delta] | None:
        head = self._head.match(self._rest)
        if head is None:
            return None
        self._rest, self._step, self._object = self._rest[head.end() :], self._arguments, _ObjectEnd()
        self.count += 1
        return [CallDelta(self.count - 1, id=self._format.new_id(), name=head[1])]

    def _arguments(self) -> list[Delta] | None:
        end = self._object.find(self._rest)
        text, self._rest = self._rest[:end], self._rest[end:]
        if self._object.closed:
            self._step = self._after_arguments
        return [CallDelta(self.count - 1, text)] if text else None

    def _after_arguments(self) -> list[Delta] | None:
        many = self._format.separator is not None
        return self._skip(self._format.after_arguments, self._next if many else self._end)

    def _next(self) -> list[Delta] | None:
        separator = self._format.separator or ""
        if self._rest.startswith(separator):
            return self._skip(separator, self._call)
        return None if separator.startswith(self._rest) else self._skip(self._format.end, self._text)

    def _end(self) -> list[Delta] | None:
        return self._skip(self._format.end, self._prose if self._format.bare else self._text)

    def _skip(self, markup: str, then: Callable[[], list[Delta] | None]) -> list[Delta] | None:
        if len(self._rest) < len(markup):
            return None
        self._rest, self._step = self._rest[len(markup) :], then
        return []


class _ObjectEnd:
    """Looks for the end of a JSON object in text that comes piece by piece."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int:
        """How much of `text` belongs to the object."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
                    return position + 1
        return len(text)


def _settled(text: str, opening: str) -> int:
    """Length of `text` without an end that may belong to a call: white space, and a beginning of `opening`."""
    length = len(text)
    for size in range(min(len(opening) - 1, length), 0, -1):
        if text.endswith(opening[:size]):
            length -= size
            break
    return len(text[:length].rstrip())
