"""The names that clients may ask for: the model's own, and those of its adapters. Asked by the routes of api/."""

from textgen_server.errors import ModelNotFound
from textgen_server.rpc.client import Engine
from textgen_server.settings import ServerOptions

# What clients of TGI send for "the model that you have": its documentation, and huggingface_hub.
_PLACEHOLDERS = ("", "tgi", "dummy")


class ModelCatalogue:
    """What one server serves."""

    def __init__(self, settings: ServerOptions, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine

    @property
    def base(self) -> str:
        """The model's served name."""
        return self._settings.model_name

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters."""
        return list(self._engine.info.adapters)

    @property
    def names(self) -> list[str]:
        """All that can be asked for: the model first, then its adapters."""
        return [self.base, *self.adapters]

    def is_base(self, name: str | None) -> bool:
        """True for names of the model itself: its served name, where it came from, and "whatever you have"."""
        return name is None or name in (*_PLACEHOLDERS, self.base, self._settings.model_id)

    def adapter_of_model(self, name: str | None) -> str:
        """The adapter that `name` stands for as OpenAI's `model`; "" for the model itself.

        Raises:
            ModelNotFound: nothing of that name is served.
        """
        if name is None or self.is_base(name):
            return ""
        if name in self.adapters:
            return name
        served = ", ".join(f"`{known}`" for known in self.names)
        raise ModelNotFound(f"The model `{name}` does not exist; this server has {served}", "model")

    def adapter(self, adapter_id: str | None) -> str:
        """The adapter that TGI's `adapter_id` names; "" for the model itself, which it means by "" and null.

        Raises:
            ModelNotFound: there is no such adapter.
        """
        if not adapter_id or adapter_id in self.adapters:
            return adapter_id or ""
        served = ", ".join(f"`{known}`" for known in self.adapters) or "none"
        raise ModelNotFound(f"The adapter `{adapter_id}` does not exist; this server has {served}", "adapter_id")
