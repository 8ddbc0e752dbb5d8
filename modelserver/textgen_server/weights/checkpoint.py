"""Reading weights from a folder of safetensors files without a second copy in memory. Called by the runner's loading.

Files are memory-mapped. A tensor is a view of the mapping: nothing is read until its values are used, and what a rank
does not use is never read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from textgen_server.errors import CheckpointError
from textgen_server.weights.damage import what_is_wrong
from textgen_server.weights.headers import Entry, read_headers


class Checkpoint:
    """The named tensors of one model, spread over one or more safetensors files."""

    def __init__(self, folder: Path, entries: Mapping[str, Entry], files: dict[str, Any]) -> None:
        """Use `Checkpoint.open`. `files` are open files by name, `entries` say which of them has a tensor."""
        self._folder = folder
        self._entries = entries
        self._files = files

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Map the weights in `folder`: those that `read_headers` finds. Raises CheckpointError as it does."""
        entries = read_headers(folder)
        names = sorted({entry.file for entry in entries.values()})
        return cls(folder, entries, {name: _open(folder / name) for name in names})

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._entries)

    @property
    def num_bytes(self) -> int:
        """Size of all tensors together, as stored."""
        return sum(entry.num_bytes for entry in self._entries.values())

    def stored_bytes(self, name: str) -> int:
        """Size of tensor `name` in the files. Raises CheckpointError when there is none."""
        return self._entry(name).num_bytes

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor `name`. Raises CheckpointError when there is none."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Stored type of tensor `name`. Raises CheckpointError when there is none."""
        return self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Tensor `name` on the CPU, in its stored type: a view of the mapping, to be copied and never written to.

        Raises CheckpointError when there is none.
        """
        file = self._entry(name).file
        try:
            tensor: torch.Tensor = self._files[file].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self._folder / file}: cannot read {name}: {error}") from error
        return tensor

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            files = ", ".join(sorted(self._files))
            raise CheckpointError(f"{self._folder} has no tensor {name} (looked in {files})")
        return self._entries[name]

    def slice(self, name: str, dim: int, start: int, length: int) -> torch.Tensor:
        """Elements `start` to `start + length` of tensor `name` along `dim`, a view like `tensor`'s.

        Raises CheckpointError when the tensor does not exist or is smaller than that.
        """
        tensor = self.tensor(name)
        size = tensor.shape[dim] if dim < tensor.dim() else 0
        if min(dim, start, length) < 0 or start + length > size:
            wanted = f"elements {start} to {start + length} of dimension {dim}"
            raise CheckpointError(f"{self._folder}: {name} of shape {list(tensor.shape)} lacks {wanted}")
        return tensor.narrow(dim, start, length)


def _open(path: Path) -> Any:
    """Map one safetensors file."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path, error)}") from error
