"""Bodies of /v1/completions."""

from typing import Annotated, Any

from pydantic import PlainValidator

from textgen_server.api.schemas.common import Reply, refuse_unsupported
from textgen_server.api.schemas.openai import HARMLESS, CommonRequest, Completion, FinishReason, Usage
from textgen_server.errors import InvalidRequest
from textgen_server.settings import ServerOptions
from textgen_server.text.prompt import Prompt
from textgen_server.text.request import Dialect, GenerationRequest

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None,),
    "suffix": (None,),
}


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


_Prompts = Annotated[
    list[Prompt],
    PlainValidator(_as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]


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
        refuse_unsupported(self, HARMLESS | _HARMLESS)
        most = settings.max_client_batch_size
        if len(self.prompt) > most:
            raise InvalidRequest(f"`prompt` supports up to {most} prompts. Given: {len(self.prompt)}", "prompt")
        dialect = Dialect(inputs="prompt", max_new_tokens="max_tokens")
        return [self.generation(prompt, self.max_tokens, dialect) for prompt in self.prompt]


class CompletionChoice(Reply):
    """The continuation of the `index`-th prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: FinishReason


class CompletionReply(Completion):
    """Choices are in the order of the prompts."""

    choices: list[CompletionChoice]
    usage: Usage
