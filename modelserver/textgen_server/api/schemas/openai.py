"""Bodies of OpenAI's routes: /v1/completions, /v1/chat/completions, /v1/models."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator

from textgen_server.api.schemas.common import Body, Reply, refuse_unsupported
from textgen_server.errors import InvalidRequest, ModelNotFound
from textgen_server.settings import ServerOptions
from textgen_server.text.prompt import Chat, Prompt
from textgen_server.text.request import Dialect, GenerationRequest

# What clients of TGI send for "the model that you have": its documentation, and huggingface_hub.
_PLACEHOLDERS = ("tgi", "dummy")

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}
_HARMLESS_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None,),
    "suffix": (None,),
}
_HARMLESS_IN_CHAT: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "auto", "none"),
    "response_format": (None, {"type": "text"}),
}


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompts(value: Any) -> list[Prompt]:
    """One or several prompts, in text or token ids, as a list of them."""
    if isinstance(value, str) or _are(int, value):
        return [value]
    if _are(str, value) or (_are(list, value) and all(_are(int, prompt) for prompt in value)):
        return list(value)
    raise ValueError("must be a text, a list of texts, a list of token ids, or a list of such lists, and not empty")


def _are(kind: type, value: Any) -> bool:
    # type() and not isinstance(), because true and false are no token ids.
    return isinstance(value, list) and len(value) > 0 and all(type(item) is kind for item in value)


def _as_text(value: Any) -> Any:
    """Message content as one text; parts of it are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError('parts must be {"type": "text", "text": "..."}; this model reads only text')
    return "".join(part["text"] for part in value)


_Prompts = Annotated[
    list[Prompt],
    PlainValidator(_as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
_Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
_Content = Annotated[str | None, BeforeValidator(_as_text, json_schema_input_type=str | list[dict[str, str]] | None)]


class StreamOptions(Body):
    """What a stream contains besides the text."""

    include_usage: bool | None = None
    """Send the token counts in an extra chunk at the end."""


class CommonRequest(Body):
    """What both routes understand."""

    model: str | None = None
    """The served model's name; `tgi`, `dummy`, "" and null also mean it."""
    max_tokens: int | None = None
    """Most tokens to generate. Default: what the model's limit leaves."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Divisor of the logits; 0 takes the likeliest token. Default: 1."""
    top_p: float | None = None
    """Draw among the likeliest tokens that make up this probability, in (0, 1]."""
    frequency_penalty: float | None = None
    """Penalty on a token's share of the text so far, in [-2, 2]."""
    seed: int | None = None
    """Seed of the draw. Default: a random one."""
    stop: _Texts | None = None
    """Texts that end the generation; they are not part of the output."""
    stream: bool | None = None
    """Send the text in server-sent events as it comes."""
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Accepted, without effect."""

    top_k: int | None = None
    """Extension: draw among the k likeliest tokens, > 0."""
    ignore_eos: bool | None = None
    """Extension: go on after the end-of-sequence token."""
    repetition_penalty: float | None = None
    """Extension: CTRL's penalty on tokens of prompt and output, > 0; 1 is off."""

    n: int | None = None
    """Not supported yet, unless 1."""
    presence_penalty: float | None = None
    """Not supported yet, unless 0."""
    logit_bias: dict[str, float] | None = None
    """Not supported yet."""

    @property
    def includes_usage(self) -> bool:
        """True where a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_model(self, settings: ServerOptions) -> None:
        """Raises ModelNotFound when another model is asked for than the one that is served."""
        if self.model and self.model not in (*_PLACEHOLDERS, settings.model_name, settings.model_id):
            raise ModelNotFound(f"The model `{self.model}` does not exist; this server has `{settings.model_name}`")

    def _generation(self, prompt: Prompt, max_tokens: int | None, dialect: Dialect) -> GenerationRequest:
        greedy = self.temperature == 0
        return GenerationRequest(
            prompt=prompt,
            max_new_tokens=max_tokens,
            do_sample=not greedy,
            temperature=None if greedy else self.temperature,
            top_p=None if greedy else self.top_p,
            top_k=None if greedy else self.top_k,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else self.seed % 2**64,
            stop=tuple(self.stop or ()),
            keep_stop_text=False,
            ignore_eos=bool(self.ignore_eos),
            dialect=dialect,
        )


class CompletionRequest(CommonRequest):
    """A body of /v1/completions."""

    prompt: _Prompts
    """One or several prompts, as text or as token ids."""

    best_of: int | None = None
    """Not supported yet, unless 1."""
    echo: bool | None = None
    """Not supported yet."""
    logprobs: int | None = None
    """Not supported yet."""
    suffix: str | None = None
    """Not supported yet."""

    def to_generations(self, settings: ServerOptions) -> list[GenerationRequest]:
        """One request per prompt.

        Raises:
            ModelNotFound: see `check_model`.
            InvalidRequest: too many prompts, or something that is not supported.
        """
        self.check_model(settings)
        refuse_unsupported(self, _HARMLESS | _HARMLESS_IN_COMPLETIONS)
        most = settings.max_client_batch_size
        if len(self.prompt) > most:
            raise InvalidRequest(f"`prompt` supports up to {most} prompts. Given: {len(self.prompt)}", "prompt")
        dialect = Dialect(inputs="prompt", max_new_tokens="max_tokens")
        return [self._generation(prompt, self.max_tokens, dialect) for prompt in self.prompt]


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
        refuse_unsupported(self, _HARMLESS | _HARMLESS_IN_CHAT)
        for index, message in enumerate(self.messages):
            if message.content is None and not (message.model_extra or {}).get("tool_calls"):
                raise InvalidRequest(f"`messages[{index}].content` is missing", f"messages[{index}].content")
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequest("`max_tokens` and `max_completion_tokens` are the same: give one of them", limit)
        chat = Chat([message.model_dump() for message in self.messages])
        return self._generation(chat, getattr(self, limit), Dialect(inputs="messages", max_new_tokens=limit))


FinishReason = Literal["stop", "length"]


class Usage(Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Completion(Reply):
    id: str
    object: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str


class CompletionChoice(Reply):
    """The continuation of the `index`-th prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: FinishReason


class CompletionReply(_Completion):
    """Choices are in the order of the prompts."""

    choices: list[CompletionChoice]
    usage: Usage


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


class ChatCompletionReply(_Completion):
    """Exactly one choice."""

    choices: list[ChatChoice]
    usage: Usage


class ModelCard(Reply):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Reply):
    """The served models."""

    object: Literal["list"]
    data: list[ModelCard]


class ErrorBody(Reply):
    """Why a request failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiErrorReply(Reply):
    """OpenAI's shape of an error."""

    error: ErrorBody
