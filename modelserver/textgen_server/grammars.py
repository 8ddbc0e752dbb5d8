"""Grammars in llguidance's words, and what is wrong with those that it cannot work with. Both processes ask here: the
API process before a grammar goes to the engine, the engine when it compiles one. No torch, no HTTP, no numpy.

Run as a program (`python -m textgen_server.grammars`) it is the checker that text/grammars.py starts: a process of its
own, because llguidance follows references by recursion and a schema with a long chain of them overflows its stack,
which ends the process; because only a process can be stopped when it takes too long; and because memory can be bounded.
"""

import contextlib
import json
import re
import resource
import signal
import sys
import threading
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from textgen_server.json_schema import closed, styled
from textgen_server.sampling import Grammar

# A lexer state takes one or two kilobytes, and a request's grammar has its own. JSON of a schema needs some hundreds.
LIMITS = LLParserLimits(max_lexer_states=100_000, verbose_errors=False)

# At most one blank between the tokens of JSON, as in TGI: small models would otherwise go on with blanks until their
# last token.
_JSON_STYLE = {"whitespace_pattern": "[ ]?"}

CHECKER_STACK_BYTES = 8 << 20
COMPILER_STACK_BYTES = 2 * CHECKER_STACK_BYTES
"""Threads that compile have more stack than the checker had, so that what passed cannot end the engine."""
_CHECKER_MEMORY_BYTES = 2 << 30
_LONGEST_REASON = 300
# How a Lark grammar names tokens of its model.
_TOKENS = re.compile(r"<\[[0-9,-]+\]>")


class BadGrammar(ValueError):
    """The grammar cannot be used; the message says why."""


def to_llguidance(grammar: Grammar) -> str:
    """The grammar in llguidance's own format.

    Raises:
        BadGrammar: it is no JSON, or no text, or ends within an escape.
    """
    try:
        grammar.source.encode()
    except UnicodeEncodeError:
        raise BadGrammar("it has half a surrogate pair, which is no character") from None
    if grammar.kind == "json_schema":
        schema = styled(closed(_parse(grammar.source)), _JSON_STYLE)
        return LLMatcher.grammar_from_json_schema(json.dumps(schema))
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_lark(f"start: /{_lark_regex(grammar.source)}/")
    return LLMatcher.grammar_from_lark(grammar.source)


def compile_with(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher at the grammar's start.

    Raises:
        BadGrammar: it is wrong, uses what llguidance does not have, is too large, or nothing matches it.
    """
    matcher = LLMatcher(tokenizer, to_llguidance(grammar), log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise BadGrammar(reason(matcher.get_error()))
    return matcher


def check(grammar: Grammar) -> str:
    """Why the grammar cannot be used, or "". May take long, or end the process."""
    if grammar.kind == "lark":  # may name tokens, which only the engine knows; here any byte stands for them
        grammar = Grammar("lark", _TOKENS.sub("<[0]>", grammar.source))
    try:
        matcher = compile_with(grammar, LLTokenizer("byte"))
    except BadGrammar as error:
        return str(error)
    # Some limits, and grammars that nothing matches, are only found where a choice is to be made.
    matcher.consume_tokens(matcher.compute_ff_tokens())
    matcher.compute_bitmask()
    return reason(matcher.get_error()) if matcher.is_error() else ""


def reason(error: str) -> str:
    """llguidance's message as one line that is fit for users."""
    if error.startswith("NoExtension"):
        return "no text matches it"
    error = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", error)
    if match := re.match(r"Unimplemented keys: \[(.*)\]", error):
        return f"the schema's {match[1]} cannot be enforced"
    if match := re.search(r"^error: (.+)$", error, re.MULTILINE):
        return f"the regular expression is wrong: {match[1]}"
    line = error.partition("\n")[0]
    return re.sub(r"^at \d+\(\d+\): (invalid regex \".*\" \(in regex\): )?", "", line)[:_LONGEST_REASON]


def _lark_regex(source: str) -> str:
    r"""As it stands between slashes, with \d for the ten digits of ASCII: those of all scripts, which differ from one
    version of Unicode to the next, are not what anybody means."""
    if re.search(r"(?<!\\)(\\\\)*\\\Z", source):  # llguidance would drop it
        raise BadGrammar("the regular expression is wrong: it ends with a single backslash")
    return regex_to_lark(source, "d")


def _parse(source: str) -> Any:
    try:
        return json.loads(source, parse_constant=_no_constant)
    except RecursionError:
        raise BadGrammar("the schema is nested too deeply") from None
    except ValueError as error:
        raise BadGrammar(f"the schema is not valid JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def main() -> None:
    """Answer each line, the JSON of a grammar, with a line, the JSON of `check`'s result, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS cannot
        resource.setrlimit(resource.RLIMIT_AS, (_CHECKER_MEMORY_BYTES, _CHECKER_MEMORY_BYTES))
    threading.stack_size(CHECKER_STACK_BYTES)
    thread = threading.Thread(target=_answer)
    thread.start()
    thread.join()


def _answer() -> None:
    for line in sys.stdin:
        print(json.dumps(check(Grammar(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
