"""The ways in which models write calls. A model's chat template tells which is its own; a model that was not taught any
gets `GENERIC`, and the words that explain it.

A new format is an entry in `_FORMATS`; grammar.py and parser.py read it.
"""

import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class CallFormat:
    """How calls lie in an answer's text:

        text  OPENING  BEGIN  call  (SEPARATOR call)*  END  text     (there may be a blank before BEGIN)
                             │
                             └ BEFORE_NAME name BEFORE_ARGUMENTS arguments AFTER_ARGUMENTS

    Attributes:
        in_template: the model's template writes tools into the prompt; otherwise messages.py does.
        bare: the opening may be missing, but text and calls do not mix: an answer that begins with `before_name`'s
            first character is calls, any other is text.
        separator: None where an opening has only one call behind it.
        between: what stands between two such blocks when there is no text; None where a second is not written.
        id_length: of ids, in letters and digits, where the format's templates refuse others.
    """

    name: str
    opening: str
    before_name: str
    before_arguments: str
    after_arguments: str
    begin: str = ""
    separator: str | None = None
    end: str = ""
    between: str | None = None
    bare: bool = False
    in_template: bool = True
    id_length: int | None = None

    @property
    def markup(self) -> tuple[str, ...]:
        """Everything fixed that the format consists of."""
        parts = (self.opening, self.begin, self.before_name, self.before_arguments, self.after_arguments, self.end)
        return tuple(part for part in (*parts, self.separator, self.between) if part)

    def new_id(self) -> str:
        """An id for a call."""
        return f"call_{secrets.token_hex(12)}" if self.id_length is None else secrets.token_hex(16)[: self.id_length]


# Nous Research's Hermes, and Qwen.
HERMES = CallFormat(
    name="hermes",
    opening="<tool_call>",
    before_name='\n{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}\n</tool_call>",
    between="\n",
)

# Llama 3.1 and later; their templates refuse a message with several calls.
LLAMA = CallFormat(
    name="llama",
    opening="<|python_tag|>",
    before_name='{"name": "',
    before_arguments='", "parameters": ',
    after_arguments="}",
    bare=True,
)

# Mistral's tokenizers v2 to v7.
MISTRAL = CallFormat(
    name="mistral",
    opening="[TOOL_CALLS]",
    begin="[",
    before_name='{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}",
    separator=", ",
    end="]",
    id_length=9,
)

# Mistral's tokenizers from v11 on.
MISTRAL_ARGS = CallFormat(
    name="mistral-args",
    opening="[TOOL_CALLS]",
    before_name="",
    before_arguments="[ARGS]",
    after_arguments="",
    between="",
    id_length=9,
)

GENERIC = CallFormat(
    name="generic",
    opening=HERMES.opening,
    before_name=HERMES.before_name,
    before_arguments=HERMES.before_arguments,
    after_arguments=HERMES.after_arguments,
    between=HERMES.between,
    in_template=False,
)

# (format, what its templates contain, what they do not). The first that fits is taken.
_FORMATS: tuple[tuple[CallFormat, tuple[str, ...], tuple[str, ...]], ...] = (
    (MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]"), ()),
    (MISTRAL, ("[TOOL_CALLS]",), ()),
    # Qwen3-Coder writes XML behind the same opening.
    (HERMES, ("<tool_call>",), ("<function=",)),
    (LLAMA, ("<|start_header_id|>", '"parameters": '), ()),
)


def format_of(template: str | None) -> CallFormat:
    """The format in which a model with this chat template (Jinja2's source) writes calls."""
    if template is not None and "tools" in template:
        for format, has, has_not in _FORMATS:
            if all(part in template for part in has) and not any(part in template for part in has_not):
                return format
    return GENERIC
