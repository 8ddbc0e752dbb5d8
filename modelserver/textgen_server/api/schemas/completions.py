"""Bodies of /v1/completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator

from textgen_server.api.schemas.common import Reply, told
from textgen_server.api.schemas.openai import MOST_CHOICES, CommonRequest, Completion, FinishReason, Usage
from textgen_server.errors import InvalidRequest
from textgen_server.text.models import ModelCatalogue
from textgen_server.text.prompt import Prompt
from textgen_server.text.request import Dialect, GenerationRequest

_MOST_LOGPROBS = 5  # OpenAI's
_DIALECT = Dialect(
    inputs="prompt",
    max_new_tokens="max_tokens",
    top_tokens="logprobs",
    most_top_tokens=_MOST_LOGPROBS,
    streams_prompt_logprobs=True,
)


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


_Text = Annotated[str, told(minLength=1)]
_Ids = Annotated[list[Annotated[int, told(minimum=0)]], told(minItems=1)]
_Prompts = Annotated[
    list[Prompt],
    PlainValidator(
        _as_prompts,
        json_schema_input_type=_Text | Annotated[list[_Text] | list[_Ids], told(minItems=1)] | _Ids,
    ),
]


class CompletionRequest(CommonRequest):
    """A body of /v1/completions."""

    _refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **CommonRequest._refused,
        "suffix": (None, ""),  # no model here was trained to fill gaps
    }

    prompt: _Prompts
    """One or several prompts, as text or as token ids."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens to generate; 0 only with `echo`. Default: what the model's limit leaves."""
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Generate so many for each prompt, of which the `n` likeliest per token are the reply. Default: `n`."""
    echo: bool | None = None
    """Put the prompt before the text, and its tokens before those of `logprobs`."""
    logprobs: Annotated[int | None, told(minimum=0, maximum=_MOST_LOGPROBS)] = None
    """Report the log-probability of each token, and so many of the likeliest in its place, at most 5."""

    @property
    def candidates(self) -> int:
        """Generations for each prompt."""
        return self.best_of or self.choices

    @property
    def only_echoes(self) -> bool:
        """True where nothing is to be generated."""
        return self.max_tokens == 0

    def to_generations(self, models: ModelCatalogue, most_prompts: int) -> list[GenerationRequest]:
        """`candidates` requests for each prompt, in the order of the prompts.

        Raises:
            ModelNotFound: another model is asked for than is served.
            InvalidRequest: too many prompts, or fields that do not fit together.
        """
        adapter = models.adapter_of_model(self.model)
        self._check(most_prompts)
        requests = (self._request(prompt, adapter) for prompt in self.prompt)
        return [sample for request in requests for sample in request.samples(self.candidates)]

    def _check(self, most_prompts: int) -> None:
        if len(self.prompt) > most_prompts:
            raise InvalidRequest(f"`prompt` supports up to {most_prompts} prompts. Given: {len(self.prompt)}", "prompt")
        if self.candidates < self.choices:
            raise InvalidRequest("`best_of` must be at least `n`", "best_of")
        if self.stream and self.candidates > self.choices:
            raise InvalidRequest("`best_of` must be `n` when streaming, because the best is known last", "best_of")
        if self.only_echoes and not self.echo:
            raise InvalidRequest("`max_tokens` must be strictly positive, unless `echo` is true", "max_tokens")

    def _request(self, prompt: Prompt, adapter: str) -> GenerationRequest:
        return self.generation(
            prompt,
            adapter,
            # The engine has no request without a token; the route leaves it out.
            1 if self.only_echoes else self.max_tokens,
            _DIALECT,
            top_tokens=self.logprobs or 0,
            raw_logprobs=self.logprobs is not None or self.candidates > self.choices,
            prompt_logprobs=bool(self.echo) and self.logprobs is not None,
        )


class CompletionLogprobs(Reply):
    """The tokens of a choice, one entry for each in every list."""

    tokens: list[str]
    """Texts; bytes that are only a part of a character as "bytes:\\xe2"."""
    token_logprobs: list[float | None]
    """Of the first token of a prompt there is none."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where each token begins in the choice's text, in characters."""


class CompletionChoice(Reply):
    """A continuation. Those of the `i`-th prompt have the indices from `i * n` on."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class CompletionReply(Completion):
    """Choices are in the order of the prompts."""

    choices: list[CompletionChoice]
    usage: Usage


class ChunkChoice(Reply):
    """A part of the `index`-th choice. The last one says why it ended."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(Completion):
    """An event of a stream, as routes/completions.py writes it."""

    choices: list[ChunkChoice]
    usage: Usage | None = None
    """With `include_usage`: null, but in the last chunk, which has no choices."""
