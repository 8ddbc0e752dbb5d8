"""POST /v2/models/{model_name}/infer: prompts and texts as tensors, in JSON or with Triton's binary extension."""

from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.headers import reply_headers
from textgen_server.api.predictor import inference
from textgen_server.api.predictor.tensors import Tensor, pack
from textgen_server.api.routes.kserve import ERRORS
from textgen_server.api.routes.model_path import ModelName, model_route
from textgen_server.api.routes.tensor_body import JSON_LENGTH, TensorRoute
from textgen_server.api.schemas.kserve import InferReply, InferRequest, OutputReply
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import while_connected

router = APIRouter(tags=["KServe"], route_class=TensorRoute, dependencies=[Depends(refuse_while_draining)])


@model_route(router, "POST", "/infer", response_model=InferReply, responses=ERRORS)
async def infer(model_name: ModelName, body: InferRequest, request: Request, context: Context) -> Response:
    """Continue one or several prompts."""
    return await while_connected(request, _infer(model_name, body, context))


async def _infer(model_name: str, body: InferRequest, context: ServerContext) -> Response:
    asked = inference.read(
        [each.to_tensor() for each in body.inputs], body.parameters or {}, [each.name for each in body.outputs or ()]
    )
    generations = await inference.run(asked.requests(model_name, context), context)
    outputs, raw = _outputs(asked.results(generations), body, spelled=asked.is_spelled)
    reply = InferReply(model_name=model_name, outputs=outputs)
    if body.id is not None:
        reply.id = body.id
    headers = reply_headers(context.compute_type, generations)
    content = reply.to_json()
    if not raw:
        return Response(content, headers=headers, media_type="application/json")
    headers[JSON_LENGTH] = str(len(content))
    return Response(content + raw, headers=headers, media_type="application/octet-stream")


def _outputs(tensors: list[Tensor], body: InferRequest, spelled: bool) -> tuple[list[OutputReply], bytes]:
    """The outputs for the JSON, and what follows it in binary."""
    binary = [each.binary for each in body.outputs] if body.outputs else [None] * len(tensors)
    outputs, raw = [], b""
    for tensor, asked in zip(tensors, binary, strict=True):
        output = OutputReply(name=tensor.name, shape=list(tensor.shape), datatype=tensor.datatype)
        if body.binary_outputs if asked is None else asked:
            packed = pack(tensor.datatype, tensor.values)
            output.parameters = {"binary_data_size": len(packed)}
            raw += packed
        elif spelled:
            output.data = list(tensor.values[0].encode())
            output.shape = [1, len(output.data)]
        else:
            output.data = list(tensor.values)
        outputs.append(output)
    return outputs, raw
