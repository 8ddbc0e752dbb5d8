"""Infer requests, whichever way they came: tensors to generations, generations to tensors. Used by
routes/kserve_infer.py for HTTP and by service.py for gRPC.

A tensor with the name of a parameter gives that parameter, as Triton's clients do it; all others hold prompts. Outputs
have one element for each prompt, in the order of the prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from textgen_server.api.predictor.tensors import BYTES, Tensor
from textgen_server.api.schemas.kserve import KServeParameters
from textgen_server.api.state import ServerContext
from textgen_server.errors import InvalidRequest
from textgen_server.text.generation import Generation, run_all
from textgen_server.text.request import GenerationRequest

INPUT = "text_input"
"""What a tensor of prompts is best called. Any name that is no parameter's will do."""

TEXT = "text_output"

OUTPUTS = {
    TEXT: BYTES,
    "finish_reason": BYTES,
    "cumulative_logprob": "FP32",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
"""All outputs and their datatypes. The names are those of Triton's vLLM backend."""

# Tensors with several parameters, as a JSON object; the second is the vLLM backend's.
_PARAMETER_OBJECTS = ("parameters", "sampling_parameters")
# With these the vLLM backend is asked for outputs that are always there.
_NEEDLESS = ("return_finish_reason", "return_cumulative_logprob", "return_num_input_tokens", "return_num_output_tokens")


@dataclass(frozen=True)
class Inference:
    """What an infer request asks for.

    Attributes:
        prompts: tensors of prompts, at least one.
        parameters: the same for all prompts.
        stream: whether the text is wanted as it comes; None where the client does not say.
        outputs: names of the outputs that are wanted; empty for all of `OUTPUTS`.
    """

    prompts: list[Tensor]
    parameters: KServeParameters
    stream: bool | None
    outputs: list[str]

    @property
    def is_spelled(self) -> bool:
        """True for TGI's form: each tensor of prompts has the bytes of one, and its reply should be like that."""
        return self.is_labelled and all(tensor.is_spelled for tensor in self.prompts)

    @property
    def is_labelled(self) -> bool:
        """True where each wanted output is the client's own name for the text of one tensor, as in TGI."""
        if not self.outputs or len(self.outputs) != len(self.prompts):
            return False
        return all(tensor.is_spelled for tensor in self.prompts) or not any(name in OUTPUTS for name in self.outputs)

    def requests(self, model_name: str, context: ServerContext, stream: bool = False) -> list[GenerationRequest]:
        """What to generate, for the model or adapter `model_name`: `best_of` requests for each prompt.

        Raises:
            ModelNotFound: nothing of that name is served.
            InvalidRequest: too many prompts, or one that is no text.
        """
        adapter = context.models.adapter_of_model(model_name)
        texts = [text for tensor in self.prompts for text in texts_of(tensor)]
        if not texts:
            raise InvalidRequest("`inputs` cannot be empty", "inputs")
        check_batch(len(texts), "inputs", context)
        make = self.parameters.to_generation
        requests = [make(text, "inputs", adapter, context.models, stream) for text in texts]
        return samples(requests, context)

    def results(self, generations: Sequence[Generation]) -> list[Tensor]:
        """The outputs that are wanted. `generations` come from `requests`."""
        best = likeliest(generations)
        if self.is_labelled:
            return list(self._labelled([self.text(generation) for generation in best]))
        shape, wanted = self._shape(len(best)), self.outputs or OUTPUTS
        return [Tensor(name, OUTPUTS[name], shape, [self._value(name, each) for each in best]) for name in wanted]

    def addition(self, text: str) -> list[Tensor]:
        """The text output of one message of a stream, which has one prompt; nothing where it is not wanted."""
        if self.is_labelled:
            return list(self._labelled([text]))
        return [Tensor(TEXT, BYTES, self._shape(1), [text])] if TEXT in (self.outputs or OUTPUTS) else []

    def ending(self, text: str, generation: Generation) -> list[Tensor]:
        """The outputs of the last message of a stream."""
        rest = [] if self.is_labelled else [each for each in self.results([generation]) if each.name != TEXT]
        return self.addition(text) + rest

    def _shape(self, texts: int) -> tuple[int, ...]:
        """Of outputs with an element for each text: that of the prompts, if they are in one tensor."""
        first, *others = self.prompts
        return (texts,) if others or first.is_spelled else first.shape

    def _labelled(self, texts: list[str]) -> Iterator[Tensor]:
        start = 0
        for name, tensor in zip(self.outputs, self.prompts, strict=True):
            shape = (1,) if tensor.is_spelled else tensor.shape
            end = start + (1 if tensor.is_spelled else len(tensor.values))
            yield Tensor(name, BYTES, shape, texts[start:end])
            start = end

    def text(self, generation: Generation) -> str:
        """The text of the reply."""
        return full_text(generation, self.parameters)

    def _value(self, output: str, generation: Generation) -> Any:
        match output:
            case "finish_reason":
                return generation.finish_reason
            case "cumulative_logprob":
                return generation.mean_logprob * generation.generated_tokens
            case "num_input_tokens":
                return len(generation.prompt.ids)
            case "num_output_tokens":
                return generation.generated_tokens
        return self.text(generation)


def read(inputs: Sequence[Tensor], parameters: Mapping[str, Any], outputs: Sequence[str]) -> Inference:
    """What is asked for. `parameters` are those beside the tensors; strings may stand for numbers and switches.

    Raises:
        InvalidRequest: there is no prompt, or a parameter is wrong, or an output does not exist.
    """
    values, prompts = dict(parameters), []
    for tensor in inputs:
        if tensor.name in _PARAMETER_OBJECTS:
            values |= _object(tensor)
        elif tensor.name == "stream" or tensor.name in KServeParameters.model_fields:
            values[tensor.name] = _parameter(tensor)
        elif tensor.name not in _NEEDLESS:
            prompts.append(tensor)
    if not prompts:
        raise InvalidRequest(f"`inputs` has no prompts: send a tensor of {BYTES}, best called `{INPUT}`", "inputs")
    inference = Inference(prompts, _parameters(values), _switch(values.get("stream")), list(outputs))
    if not inference.is_labelled:
        _check_outputs(inference.outputs, len(prompts))
    return inference


async def run(requests: Sequence[GenerationRequest], context: ServerContext) -> list[Generation]:
    """Generate to the end. Raises what `TextGenerator.begin` and `Generation.run` raise."""
    async with context.generator.begin(requests) as generations:
        await run_all(generations)
    return generations


def samples(requests: Sequence[GenerationRequest], context: ServerContext) -> list[GenerationRequest]:
    """Each of `requests`, `best_of` times. `likeliest` finds their way back."""
    most = context.settings.max_best_of
    return [sample for request in requests for sample in request.best_of_samples(most)]


def likeliest(generations: Sequence[Generation]) -> list[Generation]:
    """Of each prompt's `best_of` generations, which follow one another, the likeliest."""
    best, place = [], 0
    while place < len(generations):
        end = place + (generations[place].request.best_of or 1)
        best.append(max(generations[place:end], key=lambda generation: generation.mean_logprob))
        place = end
    return best


def full_text(generation: Generation, parameters: KServeParameters) -> str:
    """The generated text, behind the prompt if `parameters` want that."""
    return shown_prompt(generation, parameters) + generation.text


def shown_prompt(generation: Generation, parameters: KServeParameters) -> str:
    """What the reply's text begins with: the prompt if `parameters` want that, else nothing."""
    return str(generation.request.prompt) if parameters.wants_full_text() else ""


def check_batch(size: int, field: str, context: ServerContext) -> None:
    """Raises InvalidRequest when `field` has more prompts than one request may."""
    most = context.settings.max_client_batch_size
    if size > most:
        raise InvalidRequest(f"`{field}` supports up to {most} prompts. Given: {size}", field)


def texts_of(tensor: Tensor) -> list[str]:
    """The prompts in a tensor.

    Raises:
        InvalidRequest: it has something else, or another number of them than its shape says.
    """
    if tensor.is_spelled:
        if not all(0 <= byte < 256 for byte in tensor.values):
            raise InvalidRequest(
                f"`data` of input `{tensor.name}` has numbers that are no bytes: use 0 to 255", "inputs"
            )
        return [_text(tensor.name, bytes(tensor.values))]
    if tensor.datatype != BYTES:
        rule = f"must be {BYTES}: it is no parameter, so it should have prompts"
        raise InvalidRequest(f"`datatype` of input `{tensor.name}` {rule}. Given: {tensor.datatype!r}", "inputs")
    tensor.check_shape()
    return [_text(tensor.name, value) for value in tensor.values]


def _text(name: str, value: Any) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"`data` of input `{name}` is not UTF-8: {error.reason}", "inputs") from None
    if not isinstance(text, str):
        raise InvalidRequest(f"`data` of input `{name}` must be texts, or numbers that are the bytes of one", "inputs")
    return text


def _parameter(tensor: Tensor) -> Any:
    values = texts_of(tensor) if tensor.datatype == BYTES else tensor.values
    if tensor.name == "stop":
        return list(values) if tensor.values else None
    if len(values) != 1:
        rule = "is a parameter, which is the same for all prompts: it must have 1 element"
        raise InvalidRequest(f"input `{tensor.name}` {rule}. Given: {len(values)}", tensor.name)
    return values[0]


def _object(tensor: Tensor) -> dict[str, Any]:
    try:
        values = orjson.loads(_parameter(tensor))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"input `{tensor.name}` is not JSON: {error}", tensor.name) from None
    if not isinstance(values, dict):
        raise InvalidRequest(f"input `{tensor.name}` must be a JSON object", tensor.name)
    return values


def _parameters(values: Mapping[str, Any]) -> KServeParameters:
    known = {name: _from_text(name, value) for name, value in values.items() if name in KServeParameters.model_fields}
    try:
        return KServeParameters.model_validate(known, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"`{field}`: {first['msg'].removeprefix('Value error, ')}", field) from None


def _from_text(name: str, value: Any) -> Any:
    """gRPC's parameters cannot be lists or objects: these may come as JSON."""
    if name not in ("stop", "grammar") or not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _switch(value: Any) -> bool | None:
    if value in (None, True, False):
        return None if value is None else bool(value)
    raise InvalidRequest("`stream` must be true or false", "stream")


def _check_outputs(names: Sequence[str], tensors: int) -> None:
    for place, name in enumerate(names):
        if name not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise InvalidRequest(
                f"`outputs[{place}].name` is {name!r}, which there is not; there are {known}. "
                f"Names of your own need one for each input: {tensors}",
                f"outputs[{place}].name",
            )
