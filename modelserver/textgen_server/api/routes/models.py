"""GET /v1/models: the model that is served, for OpenAI's clients."""

from fastapi import APIRouter, Response

from textgen_server.api.schemas.models import ModelCard, ModelList
from textgen_server.api.state import Context

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelList)
async def models(context: Context) -> Response:
    """A list of one."""
    name = context.settings.model_name
    card = ModelCard(id=name, object="model", created=0, owned_by=name)
    return Response(ModelList(object="list", data=[card]).to_json(), media_type="application/json")
