"""What stands between the API and the world: keys, certificate, traces. Loaded by the launcher."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from textgen_server.api.keys import ApiKeys
from textgen_server.errors import StartupError
from textgen_server.rotation import Rotated
from textgen_server.settings import ServerSettings
from textgen_server.telemetry import VERSION
from textgen_server.tls import Certificate

if TYPE_CHECKING:
    from textgen_server.api.tracing import Tracing


@dataclass(frozen=True)
class Edge:
    """What stands between the API and the world. Loaded before the model, so that a mistake is known at once.

    Attributes:
        certificate: None serves plain HTTP.
        tracing: None sends no traces.
    """

    keys: ApiKeys
    certificate: Certificate | None
    tracing: "Tracing | None"

    @classmethod
    def load(cls, settings: ServerSettings) -> Self:
        """Raises StartupError when a file cannot be used, or a library is missing."""
        return cls(ApiKeys.load(settings), Certificate.load(settings), _start_tracing(settings))

    @property
    def files(self) -> list[Rotated[Any]]:
        """What may be replaced while the server runs."""
        certificate = self.certificate.files if self.certificate else None
        return [files for files in (self.keys.file, certificate) if files]


def _start_tracing(settings: ServerSettings) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    try:
        from textgen_server.api.tracing import Tracing
    except ImportError as error:
        what = f"--otlp-endpoint needs OpenTelemetry's libraries ({error})"
        raise StartupError(f"{what}: pip install 'textgen[tracing]', or leave the flag out") from None
    return Tracing(settings.otlp_endpoint, settings.otlp_service_name, VERSION)
