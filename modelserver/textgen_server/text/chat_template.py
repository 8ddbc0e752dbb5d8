"""Chat messages to the prompt that the model was trained on, by the model's own Jinja2 template. Called by prompt.py.

The dialect is transformers': sandboxed, blocks trimmed, loop controls, `raise_exception`, `strftime_now`, a `tojson`
that does not escape HTML, and `{% generation %}`, which marks training targets and here is only a wrapper.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from textgen_server.errors import CheckpointError, TemplateError
from textgen_server.text.files import read_json, token_text, tokenizer_config
from textgen_server.text.tools.formats import format_of
from textgen_server.weights.config_files import read_text

Message = Mapping[str, Any]


class ChatTemplate:
    """A model's chat template, or two: some models have another one for conversations with tools.

    Attributes:
        call_format: how the model writes calls of tools.

    Raises:
        TemplateError: `source` or `tool_source` is not a Jinja2 template.
    """

    def __init__(
        self, source: str, bos_token: str | None, eos_token: str | None, tool_source: str | None = None
    ) -> None:
        self.call_format = format_of(tool_source or source)
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._knows_developer = re.search(r"""['"]developer['"]""", source) is not None
        try:
            self._template = _environment().from_string(source)
            self._tool_template = _environment().from_string(tool_source) if tool_source else self._template
        except JinjaError as error:
            raise TemplateError(f"the model's chat template is damaged: {error}") from error

    @classmethod
    def load(cls, folder: Path, config_override: str | None = None) -> Self | None:
        """The template of a model folder, or None when the model has none. A template in `config_override` comes
        first, then chat_template.jinja, chat_template.json and tokenizer_config.json. Of several named templates,
        `default` is taken, and `tool_use` for conversations with tools.

        Raises:
            CheckpointError: a file is damaged, or several templates are given and none is named `default`.
        """
        config = tokenizer_config(folder, config_override)
        named = _find_sources(folder, config, prefer_config=config_override is not None)
        if named is None:
            return None
        bos_token, eos_token = token_text(config, "bos_token"), token_text(config, "eos_token")
        try:
            return cls(named["default"], bos_token, eos_token, named.get("tool_use"))
        except TemplateError as error:
            raise CheckpointError(
                f"{folder}: {error}; --tokenizer-config-path can name a file whose chat_template takes its place"
            ) from error

    @cached_property
    def takes_system(self) -> bool:
        """True where the template writes messages of the role `system`."""
        mark = uuid.uuid4().hex
        try:
            return mark in self.render([{"role": "system", "content": mark}, {"role": "user", "content": "Hello"}])
        except TemplateError:
            return False

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for the model's next turn, or for the rest of the last message.

        Args:
            tools: OpenAI's objects; None where there are none.
            add_generation_prompt: open the model's turn.
            continue_final_message: leave the last message open; None does so with text of the assistant's.
            variables: more that the template may ask for.

        Raises:
            TemplateError: the template refuses these messages, or fails on them.
        """
        if not self._knows_developer:
            # OpenAI's newer name of the role.
            messages = [{**each, "role": "system"} if each.get("role") == "developer" else each for each in messages]
        context = {**(variables or {}), "tools": tools or None}
        if continue_final_message is None:
            continue_final_message = messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls")
        if continue_final_message:
            return self._render_unfinished(messages, context)
        return self._render(messages, context, add_generation_prompt)

    def _render_unfinished(self, messages: Sequence[Message], context: Mapping[str, Any]) -> str:
        # A mark at the end of the last message shows where the template goes on to close it.
        mark = uuid.uuid4().hex
        last = {**messages[-1], "content": (messages[-1].get("content") or "") + mark}
        text, found, _ = self._render([*messages[:-1], last], context, add_generation_prompt=False).rpartition(mark)
        if not found:
            raise TemplateError("the model's chat template leaves out the last message, so it cannot be continued")
        return text

    def _render(self, messages: Sequence[Message], context: Mapping[str, Any], add_generation_prompt: bool) -> str:
        template = self._tool_template if context["tools"] else self._template
        fixed = {"messages": messages, "add_generation_prompt": add_generation_prompt, **self._tokens}
        try:
            return template.render({**context, **fixed})
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


def _find_sources(folder: Path, config: Mapping[str, Any], prefer_config: bool) -> dict[str, str] | None:
    """Templates by their names, `default` among them; None where there are none."""
    in_config = _from_config(config.get("chat_template"))
    if prefer_config and in_config is not None:
        return in_config
    source = read_text(folder / "chat_template.jinja")
    if source is not None:
        return {"default": source, **_additional(folder)}
    return _from_config(read_json(folder / "chat_template.json").get("chat_template")) or in_config


def _additional(folder: Path) -> dict[str, str]:
    """Named templates beside chat_template.jinja, where transformers writes those that are not the default."""
    files = (folder / "additional_chat_templates").glob("*.jinja")
    return {file.stem: read_text(file) or "" for file in files}


def _from_config(value: Any) -> dict[str, str] | None:
    """A template given as text, or a list of {name, template}."""
    if value is None:
        return None
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        named = {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
        if isinstance(named.get("default"), str):
            return {name: text for name, text in named.items() if isinstance(text, str)}
    raise CheckpointError("chat_template must be text, or a list of named templates with one named `default`")
