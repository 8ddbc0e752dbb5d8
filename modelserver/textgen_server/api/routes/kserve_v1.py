"""KServe's first protocol: POST /v1/models/{model_name}:predict. Its readiness, GET /v1/models/{model_name}, is also
OpenAI's card of a model (models.py)."""

from fastapi import APIRouter, Depends, Request, Response

from textgen_server.api.headers import reply_headers
from textgen_server.api.predictor.inference import check_batch, full_text, likeliest, run, samples
from textgen_server.api.routes.kserve import ERRORS
from textgen_server.api.routes.model_path import ModelName
from textgen_server.api.routes.tensor_body import TensorRoute
from textgen_server.api.schemas.kserve import KServeParameters, PredictReply, PredictRequest
from textgen_server.api.state import Context, ServerContext, refuse_while_draining
from textgen_server.api.streaming import while_connected
from textgen_server.text.request import GenerationRequest

router = APIRouter(tags=["KServe"], route_class=TensorRoute, dependencies=[Depends(refuse_while_draining)])


@router.post("/v1/models/{model_name:path}:predict", response_model=PredictReply, responses=ERRORS)
async def predict(model_name: ModelName, body: PredictRequest, request: Request, context: Context) -> Response:
    """Continue one or several prompts."""
    return await while_connected(request, _predict(model_name, body, context))


async def _predict(model_name: str, body: PredictRequest, context: ServerContext) -> Response:
    check_batch(len(body.instances), "instances", context)
    parameters = [each.parameters or body.parameters or KServeParameters() for each in body.instances]
    requests = _requests(model_name, body, parameters, context)
    generations = await run(samples(requests, context), context)
    best = likeliest(generations)
    reply = PredictReply(predictions=[full_text(one, asked) for one, asked in zip(best, parameters, strict=True)])
    headers = reply_headers(context.compute_type, generations)
    return Response(reply.to_json(), headers=headers, media_type="application/json")


def _requests(
    model_name: str, body: PredictRequest, parameters: list[KServeParameters], context: ServerContext
) -> list[GenerationRequest]:
    adapter = context.models.adapter_of_model(model_name)
    return [
        asked.to_generation(instance.inputs, f"instances[{place}]", adapter, context.models)
        for place, (instance, asked) in enumerate(zip(body.instances, parameters, strict=True))
    ]
