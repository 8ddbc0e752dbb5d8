"""What an answer with tools may look like, as a grammar in llguidance's dialect of Lark. Called by the chat's schema.

One pass decides: the model writes text or begins a call, and as soon as a call begins it can only become a valid one,
with the name of a function that there is and arguments that fit its schema.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from textgen_server.errors import InvalidRequest
from textgen_server.json_schema import closed, styled
from textgen_server.sampling import Grammar
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.text.tools.calls import NO_ARGUMENTS, ToolUse
from textgen_server.text.tools.formats import CallFormat

# JSON on one line, with or without json.dumps's spaces. Given the choice, small models can write white space for ever.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def tool_grammar(
    use: ToolUse, format: CallFormat, tokenizer: Tokenizer, vocab_size: int, content: Grammar | None = None
) -> Grammar:
    """The grammar of an answer.

    Args:
        vocab_size: of the model.
        content: what text must look like where the answer is not calls, a JSON schema or a regular expression.

    Raises:
        InvalidRequest: the format cannot tell calls from such text.
    """
    if content is not None and format.bare and not use.required:
        raise InvalidRequest(
            "`response_format` cannot be combined with `tools` that the model may leave uncalled, because this model "
            "writes calls as bare JSON; give one of them, or a `tool_choice` that calls",
            "response_format",
        )
    return Grammar("lark", "\n".join(_Rules(use, format, tokenizer, vocab_size).write(content)) + "\n")


def shown_tokens(format: CallFormat, tokenizer: Tokenizer) -> frozenset[int]:
    """Special tokens that are a part of the format, so that the parser must see their text."""
    return frozenset(id for text, id in tokenizer.added_tokens.items() if any(text in part for part in format.markup))


class _Rules:
    """The rules of one grammar. `others` are tokens of markup that is not the format's, of thoughts perhaps: lexemes
    cannot have them, but the model may write them between texts."""

    def __init__(self, use: ToolUse, format: CallFormat, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._use = use
        self._format = format
        self._tokens = {text: id for text, id in tokenizer.added_tokens.items() if id < vocab_size}
        own = shown_tokens(format, tokenizer) | tokenizer.eos_ids
        self._others = _token_set([id for id in self._tokens.values() if id not in own])

    def write(self, content: Grammar | None) -> Iterator[str]:
        """All rules; what is not calls follows `content`."""
        if self._use.required:
            yield f"start: {self._calls}"
        elif content is not None:
            yield f"start: {self._calls} | content"
            yield _content_rule(content)
        elif self._format.bare:
            yield from self._calls_or_text()
        else:
            yield from self._calls_in_text()
        yield from self._block()

    @property
    def _calls(self) -> str:
        """Blocks of calls and nothing else."""
        between = self._format.between
        if not self._use.parallel or between is None:
            return "block"
        return f"block ({_string(between)} block)*" if between else "block+"

    def _block(self) -> Iterator[str]:
        format = self._format
        opening = self._literal(format.opening)
        yield f"block: ({opening})? body" if format.bare else f"block: {opening} body"
        several = self._use.parallel and format.separator is not None
        more = f"({_string(format.separator or '')} call)*" if several else ""
        begin = f'" "? {self._literal(format.begin)}' if format.begin else ""
        yield f"body: {begin} call {more} {self._literal(format.end)}"
        tools = [tool for tool in self._use.tools if tool.name in self._use.callable]
        functions = " | ".join(f"function{number}" for number in range(len(tools)))
        yield f"call: {self._literal(format.before_name)} ({functions}) {self._literal(format.after_arguments)}"
        for number, tool in enumerate(tools):
            yield f"function{number}: {self._literal(tool.name + format.before_arguments)} arguments{number}"
            yield f"arguments{number}: {_json_rule({'type': 'object', **(tool.parameters or NO_ARGUMENTS)})}"

    def _calls_in_text(self) -> Iterator[str]:
        # The lazy lexeme ends with the opening's last character, wherever that comes: there is no text with an opening
        # that is not followed by a call.
        opening = self._format.opening
        token = self._tokens.get(opening)
        other = f"TEXT {self._others}" if self._others else ""
        if self._use.parallel:
            yield f"start: ({' | '.join(filter(None, ['found', other]))})* TEXT"
        else:
            yield f"start: {f'({other})*' if other else ''} (TEXT | found)"
        yield "found: head body" if token is None else f"found: (head | TEXT <[{token}]>) body"
        yield f"head[lazy]: TEXT {_string(opening)}"
        yield r"TEXT: /(.|\n)*/"

    def _calls_or_text(self) -> Iterator[str]:
        first = re.escape(self._format.before_name[0])
        yield f"start: {self._calls} | FIRST more"
        yield rf"FIRST: /([ \t\r\n]*[^ \t\r\n{first}](.|\n)*)?/"
        yield f"more: ({self._others} TEXT)*" if self._others else 'more: ""'
        yield r"TEXT: /(.|\n)*/"

    def _literal(self, text: str) -> str:
        """`text`, in which added tokens may be themselves or spelled out."""
        known = sorted((token for token in self._tokens if token in text), key=len, reverse=True)
        if not known:
            return _string(text) if text else ""
        parts = re.split(f"({'|'.join(map(re.escape, known))})", text)
        return " ".join(
            f"({_string(part)} | <[{self._tokens[part]}]>)" if part in self._tokens else _string(part)
            for part in parts
            if part
        )


def _json_rule(schema: Any) -> str:
    schema = closed(json.loads(json.dumps(schema)))  # a copy
    return f"%json {json.dumps(styled(schema, _JSON_STYLE))}"


def _content_rule(content: Grammar) -> str:
    if content.kind == "regex":
        return f"content: TEXT\nTEXT: /{_one_line(content.source)}/"
    return f"content: {_json_rule(json.loads(content.source))}"


def _one_line(regex: str) -> str:
    """A regular expression as it stands between slashes."""
    escapes = {"/": r"\/", "\n": r"\n"}
    return re.sub(r"\\.|/|\n", lambda found: escapes.get(found[0], found[0]), regex, flags=re.DOTALL)


def _string(text: str) -> str:
    return json.dumps(text)


def _token_set(ids: Sequence[int]) -> str:
    """Any one of these tokens, written in ranges; "" where there are none."""
    ranges: list[list[int]] = []
    for id in sorted(ids):
        if ranges and id == ranges[-1][1] + 1:
            ranges[-1][1] = id
        else:
            ranges.append([id, id])
    return f"<[{','.join(f'{low}-{high}' for low, high in ranges)}]>" if ranges else ""
