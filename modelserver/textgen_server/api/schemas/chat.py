"""Bodies of /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from textgen_server.api.schemas.common import Body, Reply, refuse_unsupported
from textgen_server.api.schemas.openai import HARMLESS, CommonRequest, Completion, FinishReason, Usage
from textgen_server.errors import InvalidRequest
from textgen_server.settings import ServerOptions
from textgen_server.text.prompt import Chat
from textgen_server.text.request import Dialect, GenerationRequest

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "auto", "none"),
    "response_format": (None, {"type": "text"}),
}


def _as_text(value: Any) -> Any:
    """Message content as one text; parts of it are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError('parts must be {"type": "text", "text": "..."}; this model reads only text')
    return "".join(part["text"] for part in value)


_Content = Annotated[str | None, BeforeValidator(_as_text, json_schema_input_type=str | list[dict[str, str]] | None)]


class Message(Body):
    """A message of a conversation. Further fields are handed to the model's chat template."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: _Content = None
    """Text, or a list of parts of text."""


class ChatCompletionRequest(CommonRequest):
    """A body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The conversation. If the last message is the assistant's, its text is continued."""
    max_completion_tokens: int | None = None
    """OpenAI's newer name for `max_tokens`."""

    logprobs: bool | None = None
    """Not supported yet."""
    top_logprobs: int | None = None
    """Not supported yet."""
    tools: list[Any] | None = None
    """Not supported yet."""
    tool_choice: Any = None
    """Not supported yet, unless `auto` or `none`."""
    response_format: Any = None
    """Not supported yet, unless `{"type": "text"}`."""

    def to_generation(self, settings: ServerOptions) -> GenerationRequest:
        """The request in the server's own words.

        Raises:
            ModelNotFound: see `check_model`.
            InvalidRequest: a message without content, two limits, or something that is not supported.
        """
        self.check_model(settings)
        refuse_unsupported(self, HARMLESS | _HARMLESS)
        for index, message in enumerate(self.messages):
            if message.content is None and not (message.model_extra or {}).get("tool_calls"):
                raise InvalidRequest(f"`messages[{index}].content` is missing", f"messages[{index}].content")
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest("`max_tokens` and `max_completion_tokens` are the same: give one of them", limit)
        chat = Chat([message.model_dump() for message in self.messages])
        return self.generation(chat, getattr(self, limit), Dialect(inputs="messages", max_new_tokens=limit))


class ChatMessageReply(Reply):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Reply):
    """The reply to a conversation."""

    index: int
    message: ChatMessageReply
    logprobs: None
    finish_reason: FinishReason


class ChatCompletionReply(Completion):
    """Exactly one choice."""

    choices: list[ChatChoice]
    usage: Usage
