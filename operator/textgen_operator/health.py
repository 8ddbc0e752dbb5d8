"""GET /healthz: whether the operator gets its work done, and GET /metrics. Answered from the first moment, also while
another one leads.

Started by serve.py; the chart's probes ask, and Prometheus.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from textgen_operator.metrics import REGISTRY

STUCK_AFTER = 300.0
"""Seconds of delay of one service after which the operator counts as stuck, and is restarted."""


def app(seconds_behind: Callable[[], float]) -> web.Application:
    """The routes.

    Args:
        seconds_behind: by how much the most belated look at a service is late.
    """

    async def healthz(request: web.Request) -> web.Response:
        behind = seconds_behind()
        stuck = behind > STUCK_AFTER
        return web.json_response({"seconds_behind": round(behind, 1)}, status=503 if stuck else 200)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    routes = web.Application()
    routes.router.add_get("/healthz", healthz)
    routes.router.add_get("/metrics", metrics)
    return routes


@contextlib.asynccontextmanager
async def answered(routes: web.Application, port: int) -> AsyncIterator[None]:
    """Serve the routes on all addresses inside; port 0 is nowhere."""
    if not port:
        yield
        return
    # A connection that is kept open holds up the operator's end.
    runner = web.AppRunner(routes, access_log=None, keepalive_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
