"""The application: what it is made of, as lists. The launcher serves what `create_app` returns.

A new route is a module in routes/ and its line in `ROUTERS`.
"""

from functools import cache

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from textgen_server.api.description import describe
from textgen_server.api.errors import HANDLED, reply_to_error
from textgen_server.api.middleware.aliases import Aliases
from textgen_server.api.middleware.auth import RequireKey
from textgen_server.api.middleware.limits import BodyLimit
from textgen_server.api.middleware.request_log import LogRequests
from textgen_server.api.routes import (
    adapters,
    chat,
    cloud,
    completions,
    generate,
    kserve,
    kserve_generate,
    kserve_infer,
    kserve_v1,
    models,
    pages,
    server,
    tokenize,
)
from textgen_server.api.state import ServerContext
from textgen_server.settings import ServerOptions

ROUTERS = (
    server.router,
    generate.router,
    tokenize.router,
    cloud.router,
    models.router,
    adapters.router,
    completions.router,
    chat.router,
    kserve.router,
    kserve_infer.router,
    kserve_generate.router,
    kserve_v1.router,
    pages.router,
)


def create_app(context: ServerContext) -> FastAPI:
    """The ASGI application that serves `context`."""
    app = FastAPI(
        openapi_url="/api-doc/openapi.json",
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Aliases, paths=_aliases(context.settings)),
            Middleware(LogRequests, log=context.requests, count=context.metrics.replied),
            Middleware(
                CORSMiddleware,
                allow_origins=context.settings.cors_allow_origin or ["*"],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["*"],
            ),
            Middleware(RequireKey, keys=context.keys),
            Middleware(BodyLimit, limit=context.settings.payload_limit),
        ],
        exception_handlers=dict.fromkeys(HANDLED, reply_to_error),
    )
    app.state.context = context
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = cache(lambda: describe(ROUTERS, context.settings.model_name))  # type: ignore[method-assign]
    return app


def _aliases(settings: ServerOptions) -> dict[str, str]:
    asked = {settings.predict_route: "/vertex", settings.health_route: "/health"}
    return {path: route for path, route in asked.items() if path is not None}
