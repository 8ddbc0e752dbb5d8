"""The LoRA adapters of one rank: loaded into the layers that they change, and chosen for the rows of a step."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from textgen_server.adapters.peft import LowRank, check_fits, read_adapter
from textgen_server.errors import CheckpointError, InvalidRequest, StartupError, TextgenError
from textgen_server.layers.lora import AdapterRows, LoraLinear
from textgen_server.parallel import Group
from textgen_server.weights.checkpoint import Checkpoint

Room = Callable[[], int | None]
"""Bytes that adapters may still take on this rank; None where nobody knows."""


class Adapters:
    """Which there are, and which rows use them.

    Args:
        model: its linear layers are `LoraLinear` that share `rows`.
        checkpoint: the base model's, for the shapes that adapters must fit.

    Attributes:
        room: set once the KV cache has taken its share.
    """

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, rows: AdapterRows, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
        self._checkpoint = checkpoint
        self._rows = rows
        self._device = device
        self._dtype = dtype
        self.room: Room = lambda: None

    def load(self, name: str, folder: Path, group: Group) -> None:
        """Take in an adapter, on all ranks of `group` at once.

        Raises:
            InvalidRequest: it cannot be read, does not fit the model, or there is no memory for it, here or on another
                rank. Nothing has changed then, on any.
        """
        shares: list[tuple[LoraLinear, LowRank]] = []
        error: TextgenError | None = None
        try:
            shares = self._on_device(self._shares(folder), folder)
        except StartupError as reason:
            error = InvalidRequest(str(reason), "lora_path")
        except InvalidRequest as reason:
            error = reason
        failed = not group.min(error is None)
        if error is not None:
            raise error
        if failed:
            raise InvalidRequest(f"{folder} cannot be loaded by another shard, which says why in its log", "lora_path")
        for layer, share in shares:
            layer.add(name, share)

    def unload(self, name: str) -> None:
        for layer in self._layers:
            layer.remove(name)

    def use(self, rows: list[tuple[str, Tensor]]) -> None:
        """Say which rows of the next forward pass use which adapter."""
        self._rows.use(rows)

    def _shares(self, folder: Path) -> list[tuple[LoraLinear, LowRank]]:
        """What each layer gets, on the CPU. Raises CheckpointError where that cannot be read or does not fit."""
        adapter = read_adapter(folder)
        check_fits(adapter, folder, self._checkpoint)
        shares = [(layer, share) for layer in self._layers if (share := layer.share(adapter)) is not None]
        if unused := set(adapter.matrices) - {module for layer, _ in shares for module in layer.modules_named}:
            raise CheckpointError(f"{folder}: {min(unused)} cannot take an adapter in this model")
        return shares

    def _on_device(self, shares: list[tuple[LoraLinear, LowRank]], folder: Path) -> list[tuple[LoraLinear, LowRank]]:
        needed = sum(share.a.numel() + share.b.numel() for _, share in shares) * self._dtype.itemsize
        room = self.room()
        if room is not None and needed > room:
            raise _no_memory(folder, needed, room)
        try:
            return [(layer, LowRank(*(side.to(self._device, self._dtype) for side in (share.a, share.b))))
                    for layer, share in shares]  # fmt: skip
        except torch.OutOfMemoryError:
            pass
        # Only now have the tensors gone, which an error holds on to.
        torch.cuda.empty_cache()
        raise _no_memory(folder, needed, 0)


def _no_memory(folder: Path, needed: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        f"no memory for the adapter in {folder}: it takes {needed / 1e6:.1f} MB, and {max(room, 0) / 1e6:.1f} MB are "
        "left; unload another, or start the server with it in --lora-adapters or with a lower --max-batch-total-tokens",
        "lora_path",
    )
