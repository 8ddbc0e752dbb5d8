"""Chat messages to the prompt that the model was trained on, by the model's own Jinja2 template. Called by prompt.py.

The dialect is transformers': sandboxed, blocks trimmed, loop controls, `raise_exception`, `strftime_now`, a `tojson`
that does not escape HTML, and `{% generation %}`, which marks training targets and here is only a wrapper.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from textgen_server.errors import CheckpointError, TemplateError
from textgen_server.text.files import read_json, token_text, tokenizer_config

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled chat template.

    Raises:
        TemplateError: `source` is not a Jinja2 template.
    """

    def __init__(self, source: str, bos_token: str | None, eos_token: str | None) -> None:
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        try:
            self._template = _environment().from_string(source)
        except JinjaError as error:
            raise TemplateError(f"the model's chat template is damaged: {error}") from error

    @classmethod
    def load(cls, folder: Path, config_override: str | None = None) -> Self | None:
        """The template of a model folder, or None when the model has none. A template in `config_override` comes
        first, then chat_template.jinja, chat_template.json and tokenizer_config.json.

        Raises:
            CheckpointError: a file is damaged, or several templates are given and none is named `default`.
        """
        config = tokenizer_config(folder, config_override)
        source = _find_source(folder, config, prefer_config=config_override is not None)
        if source is None:
            return None
        try:
            return cls(source, token_text(config, "bos_token"), token_text(config, "eos_token"))
        except TemplateError as error:
            raise CheckpointError(str(error)) from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for the model's next turn, or for the rest of the last message when that is the assistant's.

        Raises:
            TemplateError: the template refuses these messages, or fails on them.
        """
        if messages[-1].get("role") == "assistant":
            return self._render_unfinished(messages)
        return self._render(messages, add_generation_prompt=True)

    def _render_unfinished(self, messages: Sequence[Message]) -> str:
        # A mark at the end of the last message shows where the template goes on to close it.
        mark = uuid.uuid4().hex
        last = {**messages[-1], "content": (messages[-1].get("content") or "") + mark}
        text, found, _ = self._render([*messages[:-1], last], add_generation_prompt=False).rpartition(mark)
        if not found:
            raise TemplateError("the model's chat template leaves out the last message, so it cannot be continued")
        return text

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "tools": None, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(**variables, **self._tokens)
        except Exception as error:  # a template is a program: anything may fail in it
            raise TemplateError(str(error) or type(error).__name__) from error


class _GenerationBlock(Extension):
    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise JinjaError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _find_source(folder: Path, config: Mapping[str, Any], prefer_config: bool) -> str | None:
    in_config = _from_config(config.get("chat_template"))
    if prefer_config and in_config is not None:
        return in_config
    jinja_file = folder / "chat_template.jinja"
    if jinja_file.is_file():
        return jinja_file.read_text(encoding="utf-8")
    return _from_config(read_json(folder / "chat_template.json").get("chat_template")) or in_config


def _from_config(value: Any) -> str | None:
    """A template given as text, or the one named `default` of a list of {name, template}."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {entry["name"]: entry["template"] for entry in value if isinstance(entry, dict)}
        if isinstance(named.get("default"), str):
            return str(named["default"])
    raise CheckpointError("chat_template must be text, or a list of named templates with one named `default`")
