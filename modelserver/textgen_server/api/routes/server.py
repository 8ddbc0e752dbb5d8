"""About the server itself: GET /, /health, /info, /metrics."""

from fastapi import APIRouter, Response
from starlette.responses import PlainTextResponse

from textgen_server.api.metrics import CONTENT_TYPE
from textgen_server.api.schemas.kserve import Alive
from textgen_server.api.schemas.tgi import ErrorReply, InfoReply
from textgen_server.api.state import Context
from textgen_server.telemetry import VERSION

router = APIRouter(tags=["Server"])


@router.get("/", response_model=Alive, responses={503: {"model": ErrorReply}})
async def root(context: Context) -> Response:
    """As /health, but with a body: clients of KServe's first protocol ask here whether the server lives."""
    context.require_ready()
    return Response(Alive(status="alive").to_json(), media_type="application/json")


@router.get("/health", response_class=Response, responses={503: {"model": ErrorReply}})
async def health(context: Context) -> Response:
    """200 with an empty body while requests can be served."""
    context.require_ready()
    return Response()


@router.get("/info", response_model=InfoReply)
async def info(context: Context) -> Response:
    """What is served, and its limits."""
    settings, engine = context.settings, context.engine.info
    reply = InfoReply(
        model_id=settings.model_name,
        model_sha=engine.model_sha or None,
        model_dtype=engine.dtype,
        model_device_type=engine.device if engine.device in ("cpu", "mock") else "cuda",
        model_pipeline_tag="text-generation",
        max_concurrent_requests=settings.max_concurrent_requests,
        max_best_of=settings.max_best_of,
        max_stop_sequences=settings.max_stop_sequences,
        max_input_tokens=engine.max_input_tokens,
        max_total_tokens=engine.max_total_tokens,
        max_batch_total_tokens=engine.num_blocks * engine.block_size,
        validation_workers=settings.validation_workers,
        max_client_batch_size=settings.max_client_batch_size,
        # Clients recognise TGI's API by this name.
        router="text-generation-router",
        version=VERSION,
        sha=None,
        docker_label=None,
    )
    return Response(reply.to_json(), media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(context: Context) -> Response:
    """Prometheus' text format; answers also while the engine does not."""
    return Response(await context.metrics.expose(context.engine), media_type=CONTENT_TYPE)
