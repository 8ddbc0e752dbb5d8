"""What the bodies of OpenAI's routes have in common."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from textgen_server.api.schemas.common import Body, Reply
from textgen_server.errors import ModelNotFound
from textgen_server.settings import ServerOptions
from textgen_server.text.prompt import Prompt
from textgen_server.text.request import Dialect, GenerationRequest

# What clients of TGI send for "the model that you have": its documentation, and huggingface_hub.
_PLACEHOLDERS = ("tgi", "dummy")

HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


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

    def generation(self, prompt: Prompt, max_tokens: int | None, dialect: Dialect) -> GenerationRequest:
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


FinishReason = Literal["stop", "length"]


class Usage(Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Reply):
    id: str
    object: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str


class ErrorBody(Reply):
    """Why a request failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiErrorReply(Reply):
    """OpenAI's shape of an error."""

    error: ErrorBody
