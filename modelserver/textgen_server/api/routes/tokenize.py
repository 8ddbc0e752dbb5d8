"""POST /tokenize: what the model's tokenizer makes of a text."""

import orjson
from fastapi import APIRouter, Response

from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.schemas.tgi import GenerateRequest, TextTokenReply
from textgen_server.api.state import Context

router = APIRouter(tags=["TGI"], route_class=JsonRoute)


@router.post("/tokenize", response_model=list[TextTokenReply])
async def tokenize(body: GenerateRequest, context: Context) -> Response:
    """Tokens of `inputs`, special ones added; `parameters` are ignored."""
    return Response(orjson.dumps(await context.encoder.tokenize(body.inputs)), media_type="application/json")
