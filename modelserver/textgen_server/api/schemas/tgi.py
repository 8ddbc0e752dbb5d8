"""Bodies of TGI's own routes: /generate, /generate_stream, /, /vertex, /tokenize, /chat_tokenize, /info."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from textgen_server.api.schemas.chat import ChatCompletionRequest
from textgen_server.api.schemas.common import (
    COUNT,
    PENALTY,
    POSITIVE,
    PROBABILITY,
    Body,
    PriorityName,
    Reply,
    priority_of,
    told,
)
from textgen_server.api.schemas.grammar import GrammarBody
from textgen_server.text.models import ModelCatalogue
from textgen_server.text.request import GenerationRequest


class Parameters(Body):
    """How to generate. What is left out, or null, is off."""

    max_new_tokens: Annotated[int | None, COUNT] = None
    """Most tokens to generate. Default: what the model's limit leaves."""
    do_sample: bool | None = None
    """Draw tokens instead of taking the likeliest. Default: false, but true when there are no parameters at all."""
    temperature: Annotated[float | None, POSITIVE] = None
    """Divisor of the logits, > 0."""
    top_k: Annotated[int | None, COUNT] = None
    """Draw among the k likeliest tokens, > 0."""
    top_p: Annotated[float | None, PROBABILITY] = None
    """Draw among the likeliest tokens that make up this probability, in (0, 1]."""
    typical_p: Annotated[float | None, PROBABILITY] = None
    """Draw among the most typical tokens that make up this probability, in (0, 1]."""
    repetition_penalty: Annotated[float | None, POSITIVE] = None
    """CTRL's penalty on tokens of prompt and output, > 0; 1 is off."""
    frequency_penalty: Annotated[float | None, PENALTY] = None
    """Penalty on a token's share of the text so far, in [-2, 2]; 0 is off."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    """Seed of the draw. Default: a random one."""
    stop: list[Annotated[str, told(minLength=1)]] | None = None
    """Texts that end the generation; the one that did stays in the output."""
    truncate: Annotated[int | None, COUNT] = None
    """Keep only the last so many tokens of the prompt."""
    return_full_text: bool | None = None
    """Put the prompt before the generated text."""
    details: bool | None = None
    """Add tokens, seed and the reason of the end to the reply."""

    decoder_input_details: bool | None = None
    """Add `details`, and in it the tokens of the prompt with their log-probabilities."""
    top_n_tokens: Annotated[int | None, told(minimum=0)] = None
    """Add so many of the likeliest tokens of each place."""
    best_of: Annotated[int, Field(ge=0)] | None = None
    """Generate so many sequences and reply with the likeliest; the others are in `details.best_of_sequences`."""
    watermark: bool | None = None
    """Mark the text as generated (Kirchenbauer et al. 2023)."""
    grammar: GrammarBody | None = None
    """What the output must look like."""
    adapter_id: str | None = None
    """Generate with this adapter. Default: with the model itself."""
    priority: PriorityName | None = None
    """Extension: `high` goes before others that wait, `low` after them. Default: `normal`. A number below 0 means high,
    one above 0 low."""


class GenerateRequest(Body):
    """A prompt and how to continue it."""

    inputs: Annotated[str, told(minLength=1)]
    parameters: Parameters | None = None

    @property
    def wants_details(self) -> bool:
        """True where a reply has `details`."""
        return self.wants_stream_details or bool(self.parameters and self.parameters.decoder_input_details)

    @property
    def wants_stream_details(self) -> bool:
        """True where the last event of a stream has `details`."""
        return bool(self.parameters and self.parameters.details)

    def wants_full_text(self, default: bool = False) -> bool:
        """True where the reply's text begins with the prompt."""
        given = self.parameters.return_full_text if self.parameters else None
        return default if given is None else given

    def to_generation(self, models: ModelCatalogue, stream: bool = False) -> GenerationRequest:
        """The request in the server's own words.

        Raises:
            ModelNotFound: there is no such adapter.
            InvalidRequest: the grammar can be none.
        """
        if self.parameters is None:
            return GenerationRequest(prompt=self.inputs, do_sample=True, stream=stream)
        asked = self.parameters
        return GenerationRequest(
            prompt=self.inputs,
            max_new_tokens=asked.max_new_tokens,
            best_of=asked.best_of,
            do_sample=bool(asked.do_sample),
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            typical_p=asked.typical_p,
            repetition_penalty=asked.repetition_penalty,
            frequency_penalty=asked.frequency_penalty,
            watermark=bool(asked.watermark),
            grammar=asked.grammar.to_grammar() if asked.grammar else None,
            seed=asked.seed,
            stop=tuple(asked.stop or ()),
            truncate=asked.truncate,
            top_tokens=asked.top_n_tokens or 0,
            prompt_logprobs=bool(asked.decoder_input_details),
            adapter=models.adapter(asked.adapter_id),
            priority=priority_of(asked.priority),
            stream=stream,
        )


class CompatGenerateRequest(GenerateRequest):
    """`GenerateRequest` of the old inference API, where `stream` picks the kind of reply."""

    stream: bool | None = None


def _kind_of_instance(value: Any) -> str | None:
    """The tag of an instance; None where it is neither."""
    if not isinstance(value, dict):
        return None
    return "generate" if "inputs" in value else "chat" if "messages" in value else None


VertexInstance = Annotated[
    Annotated[GenerateRequest, Tag("generate")] | Annotated[ChatCompletionRequest, Tag("chat")],
    Discriminator(
        _kind_of_instance,
        custom_error_type="instance_kind",
        custom_error_message="must be an object with `inputs` or `messages`",
    ),
]


class VertexRequest(Body):
    """Prompts and conversations to be continued, all at once."""

    instances: Annotated[list[VertexInstance], Field(min_length=1)]
    """Bodies of /generate, or of /v1/chat/completions."""


class VertexReply(Reply):
    """The generated texts, in the order of the instances."""

    predictions: list[str]


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class TokenReply(Reply):
    """A generated token, or one that might have been. `text` keeps that of special tokens."""

    id: int
    text: str
    logprob: float
    special: bool


class PromptTokenReply(Reply):
    """A token of the prompt. The first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class SequenceDetails(Reply):
    """How a generation went. `seed` is null where nothing was drawn."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PromptTokenReply]
    """The prompt's tokens, with `decoder_input_details`."""
    tokens: list[TokenReply]
    top_tokens: list[list[TokenReply]] | None = None
    """For each token the likeliest of its place, with `top_n_tokens`."""


class BestOfSequence(SequenceDetails):
    """A sequence that was not the likeliest."""

    generated_text: str


class Details(SequenceDetails):
    """How a generation went."""

    best_of_sequences: list[BestOfSequence] | None = None
    """With `best_of`, all but the likeliest sequence."""


class GenerateReply(Reply):
    """`details` is left out unless it was asked for."""

    generated_text: str
    details: Details | None = None


class StreamDetails(Reply):
    """How a streamed generation went."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamReply(Reply):
    """One server-sent event: the `index`-th token, counted from 1. The last one has the whole text."""

    index: int
    token: TokenReply
    top_tokens: list[TokenReply] | None = None
    """The likeliest tokens of its place, with `top_n_tokens`."""
    generated_text: str | None
    details: StreamDetails | None


class TextTokenReply(Reply):
    """A token of a text at the UTF-8 byte offsets `start` to `stop`."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeReply(Reply):
    """A conversation as its prompt, and the tokens of that."""

    tokenize_response: list[TextTokenReply]
    templated_text: str


class InfoReply(Reply):
    """What is served, and its limits."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None


class ErrorReply(Reply):
    """Why a request failed. `error_type` is for programs."""

    error: str
    error_type: str
