"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter: adapters come and go while the server runs. The names are
vLLM's. Only with --lora-loading, because the server reads what clients name."""

import asyncio

from fastapi import APIRouter, Depends, Response

from textgen_server.api.routes.body import JsonRoute
from textgen_server.api.routes.models import model_list
from textgen_server.api.routes.openai import ERRORS
from textgen_server.api.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest
from textgen_server.api.schemas.models import ModelList
from textgen_server.api.state import Context
from textgen_server.errors import InvalidRequest, StartupError
from textgen_server.weights.source import locate_adapter


async def _require_loading(context: Context) -> None:
    if not context.settings.lora_loading:
        raise InvalidRequest("this server does not load adapters on demand: start it with --lora-loading true")


router = APIRouter(tags=["Adapters"], route_class=JsonRoute, dependencies=[Depends(_require_loading)])


@router.post("/v1/load_lora_adapter", response_model=ModelList, responses=ERRORS)
async def load(body: LoadAdapterRequest, context: Context) -> Response:
    """Load an adapter; the reply lists what is served now."""
    if context.models.is_base(body.lora_name):
        raise InvalidRequest(f"`lora_name` {body.lora_name!r} means the model itself", "lora_name")
    cache = context.settings.huggingface_hub_cache
    try:
        folder = await asyncio.to_thread(locate_adapter, body.lora_path, cache, _ignore)
    except StartupError as error:
        raise InvalidRequest(error.message, "lora_path") from error
    await context.engine.load_adapter(body.lora_name, folder)
    return model_list(context)


@router.post("/v1/unload_lora_adapter", response_model=ModelList, responses=ERRORS)
async def unload(body: UnloadAdapterRequest, context: Context) -> Response:
    """Forget an adapter that no request uses; the reply lists what is served now."""
    await context.engine.unload_adapter(body.lora_name)
    return model_list(context)


def _ignore(line: str) -> None:
    """The client waits for the reply, and does not read the log."""
