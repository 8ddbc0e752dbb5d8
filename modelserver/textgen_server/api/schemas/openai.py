"""What the bodies of OpenAI's routes have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from textgen_server.api.schemas.common import COUNT, PENALTY, POSITIVE, Body, PriorityName, Reply, priority_of, told
from textgen_server.errors import InvalidRequest
from textgen_server.text.prompt import Prompt
from textgen_server.text.request import Dialect, GenerationRequest

MOST_CHOICES = 128
"""Of one prompt, as OpenAI."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# Checked here, because with temperature 0 it goes no further.
_Probability = Annotated[float, Field(gt=0, le=1)]
_Text = Annotated[str, told(minLength=1)]
_Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=_Text | list[_Text])]


class StreamOptions(Body):
    """What a stream contains besides the text."""

    include_usage: bool | None = None
    """Send the token counts in an extra chunk at the end."""


class CommonRequest(Body):
    """What both routes understand. Fields of OpenAI's that are not here are accepted, without effect."""

    model: str | None = None
    """The served model's name, or an adapter's; `tgi`, `dummy`, "" and null also mean the model."""
    max_tokens: Annotated[int | None, COUNT] = None
    """Most tokens to generate. Default: what the model's limit leaves."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Choices for each prompt. Default: 1."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Divisor of the logits; 0 takes the likeliest token. Default: 1."""
    top_p: _Probability | None = None
    """Draw among the likeliest tokens that make up this probability, in (0, 1]."""
    frequency_penalty: Annotated[float | None, PENALTY] = None
    """Taken from a token's logit for every time that it is in the output, in [-2, 2]."""
    presence_penalty: Annotated[float | None, PENALTY] = None
    """Taken from the logits of all tokens in the output, in [-2, 2]."""
    logit_bias: dict[str, float] | None = None
    """What to add to logits, in [-100, 100], by token ids."""
    seed: int | None = None
    """Seed of the draw. Default: a random one."""
    stop: _Texts | None = None
    """Texts that end the generation; they are not part of the output."""
    stream: bool | None = None
    """Send the text in server-sent events as it comes."""
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Whose share of the engine it takes, where the server has no API keys: users get the same."""

    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Extension: draw among the k likeliest tokens; 0 and -1 are off."""
    typical_p: _Probability | None = None
    """Extension: draw among the most typical tokens that make up this probability, in (0, 1]."""
    repetition_penalty: Annotated[float | None, POSITIVE] = None
    """Extension: CTRL's penalty on tokens of prompt and output, > 0; 1 is off."""
    ignore_eos: bool | None = None
    """Extension: go on after the end-of-sequence token."""
    priority: PriorityName | None = None
    """Extension: `high` goes before others that wait, `low` after them. Default: `normal`. A number below 0 means high,
    one above 0 low."""

    # Fields that other servers know and this one does not, with the values that ask for nothing.
    _refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "bad_words": (None, []),
        "guided_choice": (None,),
        "guided_grammar": (None,),
        "guided_json": (None,),
        "guided_regex": (None,),
        "include_stop_str_in_output": (None, False),
        "length_penalty": (None, 1),
        "min_p": (None, 0),
        "min_tokens": (None, 0),
        "prompt_logprobs": (None,),
        "skip_special_tokens": (None, True),
        "stop_token_ids": (None, []),
        "structured_outputs": (None,),
        "use_beam_search": (None, False),
    }

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        """Ignoring these would give an answer to another question."""
        for name, harmless in cls._refused.items():
            if isinstance(body, dict) and body.get(name) not in harmless:
                raise InvalidRequest(f"`{name}` is not supported by this server; leave it out", name)
        return body

    @property
    def choices(self) -> int:
        """How many for each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """True where a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def generation(
        self, prompt: Prompt, adapter: str, max_tokens: int | None, dialect: Dialect, **more: Any
    ) -> GenerationRequest:
        """The request in the server's own words, with `more` fields of it.

        Raises:
            InvalidRequest: `logit_bias` has keys that are no numbers.
        """
        greedy = self.temperature == 0
        fields: dict[str, Any] = {
            "do_sample": not greedy,
            "temperature": None if greedy else self.temperature,
            "top_p": None if greedy else self.top_p,
            "top_k": None if greedy or self.top_k in (0, -1) else self.top_k,
            "typical_p": None if greedy else self.typical_p,
            "repetition_penalty": self.repetition_penalty,
            "count_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": self._biases(),
            "seed": None if self.seed is None else self.seed % 2**64,
            "stop": tuple(self.stop or ()),
            "ignore_eos": bool(self.ignore_eos),
            "stream": bool(self.stream),
            "priority": priority_of(self.priority),
            "user": self.user or "",
        }
        return GenerationRequest(
            prompt=prompt,
            max_new_tokens=max_tokens,
            keep_stop_text=False,
            adapter=adapter,
            dialect=dialect,
            **fields,
            **more,
        )

    def _biases(self) -> dict[int, float]:
        biases = self.logit_bias or {}
        for token in biases:
            if not (token.isascii() and token.isdecimal() and len(token) < 20):
                raise InvalidRequest(f"`logit_bias` must have token ids as its keys. Given: {token[:50]}", "logit_bias")
        return {int(token): bias for token, bias in biases.items()}


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class PromptTokensDetails(Reply):
    """Of `prompt_tokens`."""

    cached_tokens: int
    """Those that the prefix cache had."""


class Usage(Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Completion(Reply):
    """What surrounds the choices."""

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
