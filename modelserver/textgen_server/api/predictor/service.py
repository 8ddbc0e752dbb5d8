"""The Open Inference Protocol over gRPC: messages to infer requests and back. Served by server.py, behind guard.py."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from textgen_server.api.errors import problem_of
from textgen_server.api.predictor import inference, metadata, open_inference_pb2_grpc
from textgen_server.api.predictor import open_inference_pb2 as pb
from textgen_server.api.predictor.guard import Metadata, recorded
from textgen_server.api.predictor.inference import Inference, shown_prompt
from textgen_server.api.predictor.tensors import BYTES, Tensor, check_datatype, pack, unpack
from textgen_server.api.state import ServerContext
from textgen_server.errors import InvalidRequest, TextgenError

_log = logging.getLogger(__name__)

NAME = "inference.GRPCInferenceService"
_STREAM = f"/{NAME}/ModelStreamInfer"

# Where a message has the elements of a datatype.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
# By this Triton's clients know the last message of a request.
_FINAL = "triton_final_response"


class InferenceService(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers clients of KServe and Triton."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def ServerLive(self, request: pb.ServerLiveRequest, rpc: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, rpc: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._context.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, rpc: Any) -> pb.ModelReadyResponse:
        self._context.models.adapter_of_model(request.name)
        return pb.ModelReadyResponse(ready=self._context.ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, rpc: Any) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**metadata.of_server())

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, rpc: Any) -> pb.ModelMetadataResponse:
        self._context.models.adapter_of_model(request.name)
        return pb.ModelMetadataResponse(**metadata.of_model(request.name))

    async def ModelInfer(self, request: pb.ModelInferRequest, rpc: Any) -> pb.ModelInferResponse:
        self._context.refuse_while_draining()
        return await self._infer(request, _read(request))

    async def _infer(self, request: pb.ModelInferRequest, asked: Inference) -> pb.ModelInferResponse:
        requests = asked.requests(request.model_name, self._context)
        generations = await inference.run(requests, self._context)
        return _response(request, asked.results(generations))

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[pb.ModelInferRequest], rpc: Any) -> None:
        """Any number of requests, answered side by side; what fails is told in its own message."""
        writing = asyncio.Lock()
        # No more tasks than can have a place, so that a client that sends and does not read is made to wait.
        places = asyncio.Semaphore(self._context.settings.max_concurrent_requests)
        async with asyncio.TaskGroup() as group:
            async for request in request_iterator:
                await places.acquire()
                task = group.create_task(self._answer(request, rpc, writing))
                task.add_done_callback(lambda _: places.release())

    async def _answer(self, request: pb.ModelInferRequest, rpc: Any, writing: asyncio.Lock) -> None:
        async with aclosing(self._messages(request, rpc.invocation_metadata())) as messages:
            async for message in messages:
                async with writing:
                    await rpc.write(message)

    async def _messages(
        self, request: pb.ModelInferRequest, headers: Metadata
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        try:
            with recorded(self._context.requests, _STREAM, headers):
                async with aclosing(self._responses(request)) as responses:
                    async for response in responses:
                        yield pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            if not isinstance(error, TextgenError):
                _log.exception("a streamed request failed for a reason that nobody foresaw")
            about = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
            yield pb.ModelStreamInferResponse(error_message=problem_of(error).message, infer_response=about)

    async def _responses(self, request: pb.ModelInferRequest) -> AsyncGenerator[pb.ModelInferResponse, None]:
        self._context.refuse_while_draining()
        asked = _read(request)
        if asked.stream is False:
            yield _marked(await self._infer(request, asked), True)
            return
        requests = asked.requests(request.model_name, self._context, stream=True)
        if len(requests) != 1:
            raise InvalidRequest("`inputs` of a streamed request must have one prompt: set `stream` to false", "inputs")
        async with self._context.generator.begin(requests) as [generation], aclosing(generation.pieces()) as pieces:
            head = shown_prompt(generation, asked.parameters)
            async for piece in pieces:
                text, head = head + piece.delta, ""
                if piece.finish:
                    yield _marked(_response(request, asked.ending(text, generation)), True)
                elif text and (outputs := asked.addition(text)):
                    yield _marked(_response(request, outputs), False)


def _read(request: pb.ModelInferRequest) -> Inference:
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        rule = f"must be one for each of the {len(inputs)} inputs, or none"
        raise InvalidRequest(f"`raw_input_contents` {rule}. Given: {len(raw)}", "raw_input_contents")
    if raw and any(each.HasField("contents") for each in inputs):
        raise InvalidRequest("`contents` of inputs must be empty beside `raw_input_contents`", "raw_input_contents")
    contents = [_raw(*each) for each in zip(inputs, raw, strict=True)] if raw else [_typed(each) for each in inputs]
    tensors = [
        Tensor(each.name, each.datatype, tuple(each.shape), values)
        for each, values in zip(inputs, contents, strict=True)
    ]
    return inference.read(tensors, _values(request.parameters), [output.name for output in request.outputs])


def _raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes) -> list[Any]:
    return unpack(tensor.name, tensor.datatype, raw)


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> list[Any]:
    check_datatype(tensor.name, tensor.datatype)
    if tensor.datatype not in _CONTENTS:
        rule = "have no `contents` of their own: send it in `raw_input_contents`"
        raise InvalidRequest(f"input `{tensor.name}` is of {tensor.datatype}, which {rule}", "inputs")
    return list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _response(request: pb.ModelInferRequest, tensors: Iterable[Tensor]) -> pb.ModelInferResponse:
    """The outputs in the form of the inputs: raw or typed."""
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    for tensor in tensors:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(pack(tensor.datatype, tensor.values))
        else:
            values = [value.encode() for value in tensor.values] if tensor.datatype == BYTES else tensor.values
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return response


def _marked(response: pb.ModelInferResponse, final: bool) -> pb.ModelInferResponse:
    response.parameters[_FINAL].bool_param = final
    return response
