"""GET /v1/models and /v1/models/{id}: the model that is served and its adapters, for OpenAI's clients. The second is
also the readiness of KServe's first protocol."""

from fastapi import APIRouter, Response

from textgen_server.api.schemas.models import ModelCard, ModelList, ModelState
from textgen_server.api.schemas.openai import OpenAiErrorReply
from textgen_server.api.state import Context, ServerContext

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelList)
async def models(context: Context) -> Response:
    """The model, and then its adapters."""
    return model_list(context)


@router.get("/v1/models/{model_id:path}", response_model=ModelState, responses={404: {"model": OpenAiErrorReply}})
async def model(model_id: str, context: Context) -> Response:
    """The model, or one of its adapters, and whether it is ready."""
    name = context.models.adapter_of_model(model_id) or context.models.base
    state = ModelState(**_card(name, context).model_dump(), name=name, ready=context.ready)
    return Response(state.to_json(), media_type="application/json")


def model_list(context: ServerContext) -> Response:
    """What is served now."""
    cards = [_card(name, context) for name in context.models.names]
    return Response(ModelList(object="list", data=cards).to_json(), media_type="application/json")


def _card(name: str, context: ServerContext) -> ModelCard:
    return ModelCard(id=name, object="model", created=0, owned_by=context.models.base)
