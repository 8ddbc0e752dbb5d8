"""The LoRA adapters of one rank: loaded into the layers that they change, and chosen for the rows of a step."""

from pathlib import Path

import torch
from torch import Tensor, nn

from textgen_server.adapters.peft import check_fits, read_adapter
from textgen_server.errors import CheckpointError, InvalidRequest, StartupError
from textgen_server.layers.lora import AdapterRows, LoraLinear
from textgen_server.weights.checkpoint import Checkpoint


class Adapters:
    """Which there are, and which rows use them.

    Args:
        model: its linear layers are `LoraLinear` that share `rows`.
        checkpoint: the base model's, for the shapes that adapters must fit.
    """

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, rows: AdapterRows, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
        self._checkpoint = checkpoint
        self._rows = rows
        self._device = device
        self._dtype = dtype

    def load(self, name: str, folder: Path) -> None:
        """Take in an adapter.

        Raises:
            InvalidRequest: it cannot be read, or does not fit the model; nothing has changed then.
        """
        try:
            adapter = read_adapter(folder)
            check_fits(adapter, folder, self._checkpoint)
            used: set[str] = set()
            for layer in self._layers:
                used |= layer.add(name, adapter, self._device, self._dtype)
            if unused := set(adapter.matrices) - used:
                raise CheckpointError(f"{folder}: {min(unused)} cannot take an adapter in this model")
        except StartupError as error:
            self.unload(name)
            raise InvalidRequest(str(error), "lora_path") from error

    def unload(self, name: str) -> None:
        for layer in self._layers:
            layer.remove(name)

    def use(self, rows: list[tuple[str, Tensor]]) -> None:
        """Say which rows of the next forward pass use which adapter."""
        self._rows.active = rows
