"""POST /tokenize and /chat_tokenize: what the model's tokenizer makes of a text, or of a conversation."""

import orjson
from fastapi import APIRouter, Response

from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.schemas.chat import ChatCompletionRequest
from textgen_server.api.schemas.tgi import ChatTokenizeReply, GenerateRequest, TextTokenReply
from textgen_server.api.state import Context

router = APIRouter(tags=["TGI"], route_class=JsonRoute)


@router.post("/tokenize", response_model=list[TextTokenReply])
async def tokenize(body: GenerateRequest, context: Context) -> Response:
    """Tokens of `inputs`, special ones added; `parameters` are ignored."""
    return Response(orjson.dumps(await context.encoder.tokenize(body.inputs)), media_type="application/json")


@router.post("/chat_tokenize", response_model=ChatTokenizeReply)
async def chat_tokenize(body: ChatCompletionRequest, context: Context) -> Response:
    """A conversation as the chat template writes it, and the tokens of that. What says how to go on is ignored."""
    text, tokens = await context.encoder.tokenize_chat(body.chat())
    reply = {"tokenize_response": tokens, "templated_text": text}
    return Response(orjson.dumps(reply), media_type="application/json")
