"""spec -> the server's command line, by way of the server's own options, so that both always agree."""

from typing import Any

from textgen_operator.render import access, sources
from textgen_operator.render.service import SERVER_PORT
from textgen_operator.resource import Spec
from textgen_server.settings import ServerOptions

CACHE_FOLDER = "/data"
LEADER_PORT = 29500
"""Where the leader of several nodes listens."""


def server_options(spec: Spec) -> ServerOptions:
    """The server's options. What the spec leaves out stays unset, for the server to decide.

    Raises:
        pydantic.ValidationError: the server would not take them.
    """
    asked: dict[str, Any] = {
        "model_id": sources.for_server(spec.model, spec),
        "revision": spec.revision,
        "served_model_name": spec.served_model_name or sources.name_for_clients(spec.model),
        "quantize": spec.quantize,
        "dtype": spec.dtype,
        "kv_cache_dtype": spec.kv_cache_dtype,
        "lora_adapters": sources.adapters(spec) or None,
        "trust_remote_code": spec.trust_remote_code or None,
        "num_shard": spec.num_shards,
        **({"nnodes": spec.nodes, "master_port": LEADER_PORT} if spec.nodes > 1 else {}),
        **spec.limits.model_dump(),
        "huggingface_hub_cache": CACHE_FOLDER,
        "port": SERVER_PORT,
        "graceful_termination_timeout": spec.drain.timeout_seconds,
        **access.options(spec),
        "otlp_endpoint": spec.tracing.endpoint if spec.tracing else None,
    }
    return ServerOptions.model_validate({name: value for name, value in asked.items() if value is not None})


def server_args(spec: Spec) -> list[str]:
    """The arguments of the server's container."""
    return [*server_options(spec).to_args(), *spec.extra_args]
