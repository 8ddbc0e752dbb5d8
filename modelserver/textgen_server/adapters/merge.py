"""Adding one LoRA adapter to the weights while they are read, slice by slice. Used by runner/load.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from textgen_server.adapters.peft import LowRank, check_fits, read_adapter
from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part
from textgen_server.weights.progress import Transfer


@dataclass(frozen=True)
class MergingLoader(Loader):
    """Reads W + B A where it is asked for W. The sum is taken in float32, so that it is rounded once.

    Attributes:
        added: by the name of the module that it changes.
        used: modules that have been read.
    """

    added: Mapping[str, LowRank] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path | None,
        transfer: Transfer | None = None,
    ) -> Self:
        """A loader that adds the adapter in `folder`, if any. Raises CheckpointError when that does not fit."""
        if folder is None:
            return cls(checkpoint, device, dtype, transfer=transfer)
        adapter = read_adapter(folder)
        check_fits(adapter, folder, checkpoint)
        return cls(checkpoint, device, dtype, adapter.matrices, transfer=transfer)

    def read(self, part: Part) -> Tensor:
        """As Loader.read; in float32, and no view of the file, where the adapter changes the part."""
        tensor = super().read(part)
        module = part.name.removesuffix(".weight")
        if module == part.name or module not in self.added:
            return tensor
        self.used.add(module)
        a, b = self.added[module].a, self.added[module].b
        if part.dim == 0:
            b = b.narrow(0, part.start, part.length)
        elif part.dim == 1:
            a = a.narrow(1, part.start, part.length)
        return tensor.float().addmm(b, a)

    def check_all_used(self, folder: Path) -> None:
        """Raise CheckpointError when something of the adapter in `folder` found no place."""
        if unused := set(self.added) - self.used:
            raise CheckpointError(f"{folder}: {min(unused)} cannot take an adapter in this model")
