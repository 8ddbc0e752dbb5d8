"""KServe's Open Inference Protocol over HTTP: what server and model are, and whether they are ready."""

from typing import Any

from fastapi import APIRouter, Response

from textgen_server.api.predictor import metadata
from textgen_server.api.routes.model_path import ModelName, model_route
from textgen_server.api.schemas.common import Reply
from textgen_server.api.schemas.kserve import (
    KServeErrorReply,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServedModels,
    ServerMetadata,
)
from textgen_server.api.state import Context

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": KServeErrorReply, "description": meaning}
    for status, meaning in {
        400: "A value is wrong",
        404: "No such model is served",
        413: "The body is too large",
        429: "Too many requests; see Retry-After",
        500: "The engine failed on this request",
        503: "The engine is unavailable, or the server is shutting down",
    }.items()
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: ERRORS[404]}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: ERRORS[503]}

router = APIRouter(tags=["KServe"])


@router.get("/v2", response_model=ServerMetadata)
@router.get("/v2/", include_in_schema=False)
async def server_metadata() -> Response:
    """What this server is."""
    return _reply(ServerMetadata(**metadata.of_server()))


@router.get("/v2/health/live", response_model=Live)
async def live() -> Response:
    """200 while the process answers."""
    return _reply(Live(live=True))


@router.get("/v2/health/ready", response_model=Ready, responses=_NOT_READY)
async def ready(context: Context) -> Response:
    """200 while requests can be served."""
    context.require_ready()
    return _reply(Ready(ready=True))


@router.get("/v2/models", response_model=ServedModels)
async def models(context: Context) -> Response:
    """The model and its adapters."""
    return _reply(ServedModels(models=context.models.names))


@model_route(router, "GET", "/ready", response_model=ModelReady, responses={**_NOT_FOUND, **_NOT_READY})
async def model_ready(model_name: ModelName, context: Context) -> Response:
    """200 while requests to this model can be served."""
    context.models.adapter_of_model(model_name)
    context.require_ready()
    return _reply(ModelReady(name=model_name, ready=True))


@model_route(router, "GET", "", response_model=ModelMetadata, responses=_NOT_FOUND)
async def model_metadata(model_name: ModelName, context: Context) -> Response:
    """What the model takes and gives."""
    context.models.adapter_of_model(model_name)
    return _reply(ModelMetadata(**metadata.of_model(model_name)))


def _reply(reply: Reply) -> Response:
    return Response(reply.to_json(), media_type="application/json")
