"""Bodies of KServe's routes: the Open Inference Protocol, Triton's generate extension of it, and /v1's :predict."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from textgen_server.api.predictor.tensors import LARGEST_RANK, Tensor
from textgen_server.api.schemas.common import Body, Reply
from textgen_server.api.schemas.tgi import FinishReason, GenerateRequest, Parameters, TokenReply
from textgen_server.errors import InvalidRequest
from textgen_server.text.models import ModelCatalogue
from textgen_server.text.request import Dialect, GenerationRequest


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class KServeParameters(Parameters):
    """TGI's parameters, and what clients of KServe and Triton call by other names."""

    stop: Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])] | None = None
    """Text or texts that end the generation; the one that did stays in the output."""
    temperature: float | None = None
    """Divisor of the logits, >= 0; 0 takes the likeliest token."""
    max_tokens: int | None = None
    """Another name of `max_new_tokens`."""
    exclude_input_in_output: bool | None = None
    """The opposite of `return_full_text`."""
    ignore_eos: bool | None = None
    """Go on after the end-of-sequence token."""

    def asks_nothing(self) -> bool:
        """True where all parameters were left out."""
        return not self.model_fields_set

    def wants_full_text(self) -> bool:
        """True where the reply's text begins with the prompt."""
        return bool(self.return_full_text) or self.exclude_input_in_output is False

    def to_generation(
        self, prompt: str, field: str, adapter: str, models: ModelCatalogue, stream: bool = False
    ) -> GenerationRequest:
        """The request to continue `prompt`, which the client sent as `field`, to the model or to its `adapter`.

        Raises:
            ModelNotFound: there is no adapter `adapter_id`.
            InvalidRequest: the grammar can be none.
        """
        asked = None if self.asks_nothing() else self._in_tgis_words()
        request = GenerateRequest.model_construct(inputs=prompt, parameters=asked).to_generation(models, stream)
        return replace(
            request,
            adapter=request.adapter or adapter,
            ignore_eos=bool(self.ignore_eos),
            # What is sent has no place for log-probabilities of the prompt and of other tokens.
            top_tokens=0,
            prompt_logprobs=False,
            dialect=Dialect(inputs=field, max_new_tokens=self._limit),
        )

    @property
    def _limit(self) -> str:
        return "max_tokens" if self.max_new_tokens is None and self.max_tokens is not None else "max_new_tokens"

    def _in_tgis_words(self) -> Parameters:
        changes: dict[str, Any] = {"max_new_tokens": getattr(self, self._limit)}
        if self.temperature == 0:
            changes |= dict.fromkeys(("temperature", "top_k", "top_p", "typical_p", "do_sample"))
        return self.model_copy(update=changes)


class InferInput(Body):
    """A tensor. One with the name of a parameter gives that parameter; any other has prompts."""

    name: str
    shape: list[int]
    datatype: str
    """BYTES for prompts."""
    parameters: dict[str, Any] | None = None
    data: list[Any]
    """Elements in row-major order, flat or nested. Prompts are texts; numbers from 0 to 255 are the bytes of one."""

    def to_tensor(self) -> Tensor:
        """The tensor. Raises InvalidRequest for lists within too many lists."""
        values = self.data
        for _ in range(LARGEST_RANK):
            if not any(isinstance(value, list) for value in values):
                return Tensor(self.name, self.datatype, tuple(self.shape), values)
            values = [inner for value in values for inner in (value if isinstance(value, list) else [value])]
        raise InvalidRequest(f"`data` of input `{self.name}` has lists within more than {LARGEST_RANK} lists", "inputs")


class InferOutput(Body):
    """An output that is wanted."""

    name: str
    """One of `text_output`, `finish_reason`, `cumulative_logprob`, `num_input_tokens`, `num_output_tokens`; or, where
    there are as many outputs as inputs with prompts, a name of the client's own for the text of each."""
    parameters: dict[str, Any] | None = None
    """`binary_data`: send it after the JSON, in binary."""

    @property
    def binary(self) -> bool | None:
        """Whether to send it in binary; None where that was not said."""
        asked = (self.parameters or {}).get("binary_data")
        return None if asked is None else asked is True


class InferRequest(Body):
    """A body of /v2/models/{model_name}/infer."""

    id: str | None = None
    """Comes back in the reply."""
    parameters: dict[str, Any] | None = None
    """Of the generation; numbers and switches may also be given as texts. `binary_data_output`: send all outputs after
    the JSON, in binary."""
    inputs: Annotated[list[InferInput], Field(min_length=1)]
    outputs: list[InferOutput] | None = None
    """Default: all, with the texts first."""

    @property
    def binary_outputs(self) -> bool:
        """True where outputs are wanted in binary unless they say otherwise."""
        return (self.parameters or {}).get("binary_data_output") is True


class GenerateTextRequest(KServeParameters):
    """A body of /v2/models/{model_name}/generate and generate_stream."""

    id: str | None = None
    """Comes back in the reply."""
    text_input: str
    """The prompt."""
    parameters: KServeParameters | None = None
    """How to generate; may also stand beside `text_input`."""

    @property
    def asked(self) -> KServeParameters:
        """The parameters from both places; those in `parameters` win."""
        beside = {name: getattr(self, name) for name in KServeParameters.model_fields if name in self.model_fields_set}
        inner = self.parameters or KServeParameters()
        return KServeParameters.model_construct(
            **beside | {name: getattr(inner, name) for name in inner.model_fields_set}
        )


class PredictInstance(Body):
    """A prompt and how to continue it."""

    inputs: str
    parameters: KServeParameters | None = None
    """Default: those of the whole request."""


def _as_instance(value: Any) -> Any:
    return {"inputs": value} if isinstance(value, str) else value


_Instance = Annotated[PredictInstance, BeforeValidator(_as_instance, json_schema_input_type=str | PredictInstance)]


class PredictRequest(Body):
    """A body of /v1/models/{model_name}:predict."""

    instances: Annotated[list[_Instance], Field(min_length=1)]
    """Prompts, as texts or as objects."""
    parameters: KServeParameters | None = None
    """How to generate."""


class TensorMetadata(Reply):
    """What a tensor looks like; -1 in a shape stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(Reply):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Reply):
    """What a model takes and gives. Versions are not supported: there is one, and paths may call it anything."""

    name: str
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServedModels(Reply):
    """Names of the model and its adapters."""

    models: list[str]


class Alive(Reply):
    """The server lives, in the first protocol's words."""

    status: Literal["alive"]


class Live(Reply):
    """The process answers."""

    live: Literal[True]


class Ready(Reply):
    """Requests can be served."""

    ready: Literal[True]


class ModelReady(Reply):
    """Requests to this model can be served."""

    name: str
    ready: Literal[True]


class OutputReply(Reply):
    """An output tensor; `data` is left out where it follows the JSON in binary."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, int] | None = None
    data: list[str] | list[int] | list[float] | None = None


class InferReply(Reply):
    """The outputs, in the order in which they were asked for, each in the order of the prompts."""

    model_name: str
    id: str | None = None
    outputs: list[OutputReply]


class GenerateTextDetails(Reply):
    """How a generation went."""

    finish_reason: FinishReason
    logprobs: list[TokenReply]
    """The tokens."""


class GenerateTextReply(Reply):
    """`details` is left out unless it was asked for."""

    id: str | None = None
    model_name: str
    text_output: str
    details: GenerateTextDetails | None = None


class StreamTextDetails(Reply):
    """A token; with the last one, why the text ends."""

    finish_reason: FinishReason | None
    token: TokenReply


class StreamTextReply(Reply):
    """One server-sent event: what a token adds to the text."""

    id: str | None = None
    model_name: str
    text_output: str
    details: StreamTextDetails | None = None


class PredictReply(Reply):
    """The texts, in the order of the instances."""

    predictions: list[str]


class KServeErrorReply(Reply):
    """Why a request failed."""

    error: str
