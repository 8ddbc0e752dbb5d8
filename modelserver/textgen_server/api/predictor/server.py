"""The gRPC server: the Open Inference Protocol, gRPC's own health service, and reflection. Started by the launcher."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from textgen_server.api.predictor import open_inference_pb2_grpc, service
from textgen_server.api.predictor.guard import Guard
from textgen_server.api.predictor.service import InferenceService
from textgen_server.api.state import ServerContext
from textgen_server.errors import StartupError
from textgen_server.tls import Certificate

CLOSE_SECONDS = 1.0  # for what is left after draining: streams that wait, and those who watch
HEALTH_SECONDS = 0.5  # how late those hear of a change who watch the health service


@asynccontextmanager
async def serving(
    context: ServerContext, hostname: str, port: int, certificate: Certificate | None
) -> AsyncIterator[int]:
    """Serve gRPC while the block runs; yields the port. What is still running afterwards has `CLOSE_SECONDS` to end.

    Args:
        port: 0 takes a free one.
        certificate: None serves without TLS.

    Raises:
        StartupError: the port is taken.
    """
    settings = context.settings
    server = grpc.aio.server(
        interceptors=[Guard(context.keys, context.requests)],
        options=[
            ("grpc.so_reuseport", 0),  # or two servers would share a port without knowing
            ("grpc.max_receive_message_length", settings.payload_limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", settings.header_limit),
        ],
    )
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(context), server)
    watched = _Health(context)
    health_pb2_grpc.add_HealthServicer_to_server(watched, server)
    reflection.enable_server_reflection((service.NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _bind(server, hostname, port, certificate)
    await server.start()
    telling = asyncio.create_task(watched.keep_telling())
    try:
        yield bound
    finally:
        telling.cancel()
        await watched.enter_graceful_shutdown()
        await server.stop(CLOSE_SECONDS)


def _bind(server: Any, hostname: str, port: int, certificate: Certificate | None) -> int:
    address = f"[{hostname}]:{port}" if ":" in hostname else f"{hostname}:{port}"
    try:
        if certificate is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, certificate.grpc_credentials()))
    except RuntimeError:
        raise StartupError(f"cannot listen on {address}; choose another --grpc-port") from None


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's health service, whose answer is the server's readiness."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__()
        self._context = context

    async def Check(self, request: health_pb2.HealthCheckRequest, rpc: Any) -> Any:
        await self._tell()
        return await super().Check(request, rpc)

    async def keep_telling(self) -> None:
        """Tell those who watch, for as long as this runs."""
        while True:
            await self._tell()
            await asyncio.sleep(HEALTH_SECONDS)

    async def _tell(self) -> None:
        reply = health_pb2.HealthCheckResponse
        status = reply.SERVING if self._context.ready else reply.NOT_SERVING
        for name in ("", service.NAME):
            await self.set(name, status)
