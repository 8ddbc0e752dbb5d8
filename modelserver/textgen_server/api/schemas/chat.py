"""Bodies of /v1/chat/completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from textgen_server.api.schemas.common import COUNT, Body, Reply, told
from textgen_server.api.schemas.openai import CommonRequest, Completion, FinishReason, Usage
from textgen_server.api.schemas.tools import ResponseFormat, ToolBody, tool_use
from textgen_server.errors import InvalidRequest
from textgen_server.sampling import Grammar
from textgen_server.text.models import ModelCatalogue
from textgen_server.text.prompt import Chat, PromptEncoder
from textgen_server.text.request import Dialect, GenerationRequest
from textgen_server.text.tools.calls import ToolUse
from textgen_server.text.tools.grammar import shown_tokens, tool_grammar

_MOST_TOP_LOGPROBS = 20  # OpenAI's
TOOLS = "tools"
"""The field that errors in the grammar of calls name."""


def _as_text(value: Any) -> Any:
    """Message content as one text; parts of it are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError('parts must be {"type": "text", "text": "..."}; this model reads only text')
    return "".join(part["text"] for part in value)


_Content = Annotated[str | None, BeforeValidator(_as_text, json_schema_input_type=str | list[dict[str, str]] | None)]


class CalledFunction(Body):
    """A function and what it was called with."""

    name: str
    arguments: str | dict[str, Any] = ""
    """JSON, as text or as an object."""


class MessageToolCall(Body):
    """A call that an earlier message of the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """A message of a conversation. Further fields are handed to the model's chat template."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: _Content = None
    """Text, or a list of parts of text."""
    tool_calls: list[MessageToolCall] | None = None
    """Of the assistant's messages: what it called."""
    tool_call_id: str | None = None
    """Of a tool's messages: the call that this is the result of."""

    def for_template(self) -> dict[str, Any]:
        """The message without what it does not have; templates look for that."""
        fields = {"tool_call_id": self.tool_call_id, **(self.model_extra or {})}
        if self.tool_calls:
            fields["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        given = {name: value for name, value in fields.items() if value is not None}
        return {"role": self.role, "content": self.content or "", **given}


class ChatCompletionRequest(CommonRequest):
    """A body of /v1/chat/completions."""

    _refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **CommonRequest._refused,
        "audio": (None,),
        "chat_template": (None,),
        "echo": (None, False),
        "functions": (None, []),
        "function_call": (None, "auto", "none"),
        "modalities": (None, ["text"]),
        "web_search_options": (None,),
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    """The conversation. If the last message is the assistant's, its text is continued."""
    max_completion_tokens: Annotated[int | None, COUNT] = None
    """OpenAI's newer name for `max_tokens`."""
    logprobs: bool | None = None
    """Report the log-probability of each token."""
    top_logprobs: Annotated[int | None, told(minimum=0, maximum=_MOST_TOP_LOGPROBS)] = None
    """With `logprobs`: report so many of the likeliest tokens of each place, at most 20. Alone it has no effect."""
    response_format: ResponseFormat | None = None
    """What the text of the reply must look like; calls of tools are not text."""
    tools: list[ToolBody] | None = None
    """What the model may call."""
    tool_choice: Any = None
    """`auto`, `none`, `required`, the name of a function, or OpenAI's object of it. Default: `auto`."""
    parallel_tool_calls: bool | None = None
    """False: at most one call. Default: true."""
    tool_prompt: str | None = None
    """TGI's: how to introduce the tools to a model whose chat template does not."""

    add_generation_prompt: bool = True
    """Extension: open the assistant's turn at the end of the prompt."""
    continue_final_message: bool | None = None
    """Extension: leave the last message open, to be continued. Default: true if it is text of the assistant's."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Extension: variables for the chat template."""
    documents: list[dict[str, Any]] | None = None
    """Extension: the chat template's variable of this name."""

    def tool_use(self) -> ToolUse | None:
        """What may be called, or None. Raises InvalidRequest."""
        return tool_use(self.tools or (), self.tool_choice, self.parallel_tool_calls)

    def chat(self) -> Chat:
        """The conversation, for the chat template.

        Raises:
            InvalidRequest: a message without content, or fields that do not fit together.
        """
        for index, message in enumerate(self.messages):
            if message.content is None and not message.tool_calls:
                raise InvalidRequest(f"`messages[{index}].content` is missing", f"messages[{index}].content")
        use = self.tool_use()
        variables = {**(self.chat_template_kwargs or {})}
        if self.documents is not None:
            variables["documents"] = self.documents
        return Chat(
            [message.for_template() for message in self.messages],
            use.tools if use else (),
            self.tool_prompt,
            self.add_generation_prompt,
            self.continue_final_message,
            variables,
        )

    def to_generations(
        self, models: ModelCatalogue, encoder: PromptEncoder, vocab_size: int
    ) -> list[GenerationRequest]:
        """A request for each choice, in the server's own words.

        Raises:
            ModelNotFound: another model is asked for than is served.
            InvalidRequest: a value is wrong, or fields do not fit together.
        """
        adapter = models.adapter_of_model(self.model)
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest("`max_tokens` and `max_completion_tokens` are the same: give one of them", limit)
        grammar, shown = self._grammar(encoder, vocab_size)
        request = self.generation(
            self.chat(),
            adapter,
            getattr(self, limit),
            Dialect(
                inputs="messages",
                max_new_tokens=limit,
                top_tokens="top_logprobs",
                grammar=TOOLS if shown is not None else "response_format",
                most_top_tokens=_MOST_TOP_LOGPROBS,
            ),
            grammar=grammar,
            shown_tokens=shown or frozenset(),
            top_tokens=(self.top_logprobs or 0) if self.logprobs else 0,
            raw_logprobs=bool(self.logprobs),
        )
        return request.samples(self.choices)

    def _grammar(self, encoder: PromptEncoder, vocab_size: int) -> tuple[Grammar | None, frozenset[int] | None]:
        """What the output must look like, and with tools the special tokens that calls have."""
        content = self.response_format.to_grammar() if self.response_format else None
        use = self.tool_use()
        if use is None:
            return content, None
        format, tokenizer = encoder.call_format, encoder.tokenizer
        return tool_grammar(use, format, tokenizer, vocab_size, content), shown_tokens(format, tokenizer)


class TokenLogprob(Reply):
    """A token and its log-probability."""

    token: str
    """Its text; bytes that are only a part of a character as "\\xe2"."""
    logprob: float
    bytes: list[int]


class PlacedTokenLogprob(TokenLogprob):
    """A token of the text, and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Reply):
    """Of the tokens of the message, calls included."""

    content: list[PlacedTokenLogprob]
    refusal: None


class FunctionReply(Reply):
    """A function, and JSON of what to call it with."""

    name: str
    arguments: str


class ToolCallReply(Reply):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: FunctionReply


class ChatMessageReply(Reply):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str | None
    """Null where there are only calls."""
    refusal: None
    """Models here do not refuse in a field of its own."""
    tool_calls: list[ToolCallReply] = Field(default_factory=list)
    """Left out where there are none."""


class ChatChoice(Reply):
    """One reply to the conversation."""

    index: int
    message: ChatMessageReply
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletionReply(Completion):
    """`n` choices."""

    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(Reply):
    """The first part of a call has the name; `arguments` of all parts add up to JSON."""

    name: str | None = None
    arguments: str


class ToolCallDelta(Reply):
    """A part of the `index`-th call. The first has `id` and `type`."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class MessageDelta(Reply):
    """What a chunk adds to the message. The first has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Reply):
    """A part of the `index`-th choice. The last one says why it ended."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Completion):
    """An event of a stream, as routes/chat.py writes it."""

    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    """With `include_usage`: null, but in the last chunk, which has no choices."""
