"""What the routes share. The launcher makes one `ServerContext`, hands it to `create_app`, and drains through its
`lifecycle`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

from fastapi import Depends, Request

from textgen_server.api.headers import compute_type
from textgen_server.api.keys import ApiKeys
from textgen_server.api.metrics import Metrics
from textgen_server.api.records import RecordingObserver, RequestLog
from textgen_server.errors import EngineUnavailable, ShuttingDown
from textgen_server.rpc.client import Engine
from textgen_server.settings import ServerOptions
from textgen_server.text.generation import TextGenerator
from textgen_server.text.models import ModelCatalogue
from textgen_server.text.prompt import PromptEncoder

if TYPE_CHECKING:
    from textgen_server.api.tracing import Tracing


@dataclass
class Lifecycle:
    """Where the server stands in its life. Set `draining` on SIGTERM: /health turns to 503 and new generations are
    refused, while those in flight go on."""

    draining: bool = False


@dataclass(frozen=True)
class ServerContext:
    """Everything a route may need."""

    settings: ServerOptions
    engine: Engine
    models: ModelCatalogue
    encoder: PromptEncoder
    generator: TextGenerator
    metrics: Metrics
    keys: ApiKeys
    requests: RequestLog
    lifecycle: Lifecycle

    @classmethod
    def create(
        cls,
        settings: ServerOptions,
        engine: Engine,
        encoder: PromptEncoder,
        keys: ApiKeys,
        tracing: "Tracing | None" = None,
    ) -> Self:
        """A context whose engine is ready. `encoder` comes from `PromptEncoder.load`, `keys` from `ApiKeys.load`."""
        metrics = Metrics(engine.info)
        generator = TextGenerator(engine, encoder, settings, RecordingObserver(metrics))
        models = ModelCatalogue(settings, engine)
        requests = RequestLog(settings.model_name, tracing)
        return cls(settings, engine, models, encoder, generator, metrics, keys, requests, Lifecycle())

    @property
    def in_flight(self) -> int:
        """Requests that hold a place; 0 when a draining server is done."""
        return self.generator.admission.in_flight

    @property
    def compute_type(self) -> str:
        """Value of the header x-compute-type."""
        return self.settings.compute_type or compute_type(self.engine.info)

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return self.engine.healthy and not self.lifecycle.draining

    def require_ready(self) -> None:
        """Raises EngineUnavailable unless requests can be served."""
        if not self.ready:
            raise EngineUnavailable("unhealthy")

    def refuse_while_draining(self) -> None:
        """Raises ShuttingDown once the server takes nothing new."""
        if self.lifecycle.draining:
            raise ShuttingDown("The server is shutting down")


async def _current(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    return context


# A route's parameter of this type is the server's context.
Context = Annotated[ServerContext, Depends(_current)]


async def refuse_while_draining(context: Context) -> None:
    """Dependency of the routes that generate."""
    context.refuse_while_draining()
