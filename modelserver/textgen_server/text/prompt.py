"""Prompts of any kind to token ids, off the event loop. Called by generation.py and by the route /tokenize."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from textgen_server.errors import TemplateError
from textgen_server.settings import ServerOptions
from textgen_server.text.chat_template import ChatTemplate
from textgen_server.text.grammars import GrammarChecker
from textgen_server.text.tokenizer import TextToken, Tokenizer
from textgen_server.text.tools.calls import Tool
from textgen_server.text.tools.formats import GENERIC, CallFormat
from textgen_server.text.tools.messages import for_template, written_out


@dataclass(frozen=True)
class Chat:
    """A conversation of at least one message; the model's chat template makes the prompt of it.

    Attributes:
        tools: what the model may call.
        tool_prompt: introduces the tools where the template does not do so; None has our own words.
        add_generation_prompt, continue_final_message, variables: see `ChatTemplate.render`.
    """

    messages: list[dict[str, Any]]
    tools: tuple[Tool, ...] = ()
    tool_prompt: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


# Text, token ids, or a conversation.
Prompt = str | list[int] | Chat


SHORT_PROMPT_CHARACTERS = 500
"""So long a text is in tokens (0.1 ms, 0.2 at most) before a thread has woken up to do it."""


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids, and the number of characters of the text they came from (0 where there was none)."""

    ids: list[int]
    characters: int


class PromptEncoder:
    """A model's tokenizer and chat template, and the threads that work with them; what checks grammars, too.
    `template` is None where the model has none."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, workers: int) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self.grammars = GrammarChecker(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")

    @property
    def call_format(self) -> CallFormat:
        """How the model writes calls of tools."""
        return GENERIC if self._template is None else self._template.call_format

    @classmethod
    def load(cls, folder: Path, settings: ServerOptions) -> Self:
        """What the model folder holds. Raises StartupError when the tokenizer is missing or a file is damaged."""
        override = settings.tokenizer_config_path
        tokenizer = Tokenizer.load(folder, override)
        return cls(tokenizer, ChatTemplate.load(folder, override), settings.validation_workers)

    async def encode(self, prompt: Prompt, truncate: int | None = None) -> EncodedPrompt:
        """Token ids of `prompt`; with `truncate`, the last so many of them, where a leading BOS stays and counts.

        Raises:
            TemplateError: a conversation cannot be written as a prompt.
        """
        if isinstance(prompt, list):
            return EncodedPrompt(self._truncated(prompt, truncate), 0)
        if isinstance(prompt, str) and len(prompt) <= SHORT_PROMPT_CHARACTERS:
            return self._encode(prompt, truncate)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode, prompt, truncate)

    async def tokenize(self, text: str) -> list[TextToken]:
        """Tokens of `text`, special ones added, with their places."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.tokenizer.tokenize, text)

    async def tokenize_chat(self, chat: Chat) -> tuple[str, list[TextToken]]:
        """The prompt that `chat` becomes, and its tokens with their places in it.

        Raises:
            TemplateError: the conversation cannot be written as a prompt.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenize_chat, chat)

    def close(self) -> None:
        """End the threads; the prompts that they are working on are finished first."""
        self.grammars.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _encode(self, prompt: str | Chat, truncate: int | None) -> EncodedPrompt:
        # Chat templates write the BOS themselves.
        text = self._render(prompt) if isinstance(prompt, Chat) else prompt
        ids = self.tokenizer.encode(text, add_special_tokens=not isinstance(prompt, Chat))
        return EncodedPrompt(self._truncated(ids, truncate), len(text))

    def _tokenize_chat(self, chat: Chat) -> tuple[str, list[TextToken]]:
        text = self._render(chat)
        return text, self.tokenizer.tokenize(text, add_special_tokens=False)

    def _render(self, chat: Chat) -> str:
        if self._template is None:
            raise TemplateError("this model has no chat template; use /v1/completions or /generate")
        try:
            messages, tools = self._with_tools(chat, self._template)
        except RecursionError:
            raise TemplateError("`messages` are nested too deeply") from None
        return self._template.render(
            messages,
            tools,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            variables=chat.variables,
        )

    def _with_tools(self, chat: Chat, template: ChatTemplate) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Messages and tools as the template needs them; no tools where the messages tell of them."""
        format = template.call_format
        if format.in_template:
            return for_template(chat.messages, format), [tool.for_template() for tool in chat.tools]
        takes_system = not chat.tools or template.takes_system
        return written_out(chat.messages, chat.tools, format, takes_system, chat.tool_prompt), []

    def _truncated(self, ids: list[int], length: int | None) -> list[int]:
        if length is None or len(ids) <= length:
            return ids
        start = len(ids) - length
        if ids[0] == self.tokenizer.bos_id:
            return [ids[0], *ids[start + 1 :]]
        return ids[start:]
