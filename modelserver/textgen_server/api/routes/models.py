"""GET /v1/models and /v1/models/{id}: the model that is served and its adapters, for OpenAI's clients."""

from fastapi import APIRouter, Response

from textgen_server.api.schemas.models import ModelCard, ModelList
from textgen_server.api.schemas.openai import OpenAiErrorReply
from textgen_server.api.state import Context, ServerContext

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelList)
async def models(context: Context) -> Response:
    """The model, and then its adapters."""
    cards = [_card(name, context) for name in context.models.names]
    return Response(ModelList(object="list", data=cards).to_json(), media_type="application/json")


@router.get("/v1/models/{model_id:path}", response_model=ModelCard, responses={404: {"model": OpenAiErrorReply}})
async def model(model_id: str, context: Context) -> Response:
    """The model, or one of its adapters."""
    name = context.models.adapter_of_model(model_id) or context.models.base
    return Response(_card(name, context).to_json(), media_type="application/json")


def _card(name: str, context: ServerContext) -> ModelCard:
    return ModelCard(id=name, object="model", created=0, owned_by=context.models.base)
