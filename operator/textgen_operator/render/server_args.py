"""spec -> the server's command line, by way of the server's own options, so that both always agree."""

from textgen_operator.render.service import SERVER_PORT
from textgen_operator.resource import Spec
from textgen_server.settings import ServerOptions

CACHE_FOLDER = "/data"


def server_options(spec: Spec) -> ServerOptions:
    """The server's options. What the spec leaves out stays unset, for the server to decide.

    Raises:
        pydantic.ValidationError: the server would not take them.
    """
    asked = {
        "model_id": spec.hub_id,
        "revision": spec.revision,
        "served_model_name": spec.served_model_name,
        "quantize": spec.quantize,
        "dtype": spec.dtype,
        "num_shard": spec.num_shards,
        **spec.limits.model_dump(),
        "huggingface_hub_cache": CACHE_FOLDER,
        "port": SERVER_PORT,
        "graceful_termination_timeout": spec.drain.timeout_seconds,
    }
    return ServerOptions.model_validate({name: value for name, value in asked.items() if value is not None})


def server_args(spec: Spec) -> list[str]:
    """The arguments of the server's container."""
    return [*server_options(spec).to_args(), *spec.extra_args]
