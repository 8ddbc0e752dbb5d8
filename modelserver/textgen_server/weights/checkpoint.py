"""Reading weights from a folder of safetensors files without a second copy in memory. Called by the runner's loading.

Files are memory-mapped. A tensor is a view of the mapping: nothing is read until its values are used, and what a rank
does not use is never read.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import read_json
from textgen_server.weights.damage import what_is_wrong

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Checkpoint:
    """The named tensors of one model, spread over one or more safetensors files."""

    def __init__(self, folder: Path, files: dict[str, Any], file_of: dict[str, str]) -> None:
        """Use `Checkpoint.open`. `files` are open files by name, `file_of` says which of them has a tensor."""
        self._folder = folder
        self._files = files
        self._file_of = file_of

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Map the weights in `folder` and read their headers.

        That is model.safetensors, else the files that model.safetensors.index.json lists, else every *.safetensors.
        Raises CheckpointError, naming the file, when one is missing, damaged or truncated, or when they contradict
        each other.
        """
        if (folder / _SINGLE).exists():
            return cls._of_files(folder, [_SINGLE])
        index = read_json(folder, _INDEX)
        if index is not None:
            return cls._of_index(folder, index)
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if not names:
            raise CheckpointError(f"{folder} holds no *.safetensors files")
        return cls._of_files(folder, names)

    @classmethod
    def _of_files(cls, folder: Path, names: list[str]) -> "Checkpoint":
        """All tensors of all the files; no two files may have the same."""
        files = {name: _open(folder / name) for name in names}
        file_of: dict[str, str] = {}
        for file, opened in files.items():
            for tensor in opened.keys():  # noqa: SIM118 - it is not a dict
                if tensor in file_of:
                    raise CheckpointError(f"{folder}: both {file_of[tensor]} and {file} hold the tensor {tensor}")
                file_of[tensor] = file
        return cls(folder, files, file_of)

    @classmethod
    def _of_index(cls, folder: Path, index: dict[str, Any]) -> "Checkpoint":
        """The tensors that the index lists, each of which must be where it says."""
        file_of = index.get("weight_map")
        if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
            raise CheckpointError(f"{folder / _INDEX}: weight_map must map names of tensors to names of files")
        files = {}
        for name in sorted(set(file_of.values())):
            if not (folder / name).exists():
                raise CheckpointError(f"{folder / _INDEX} lists {name}, which is missing: the download is incomplete")
            files[name] = _open(folder / name)
        there = {name: set(opened.keys()) for name, opened in files.items()}
        for tensor, name in file_of.items():
            if tensor not in there[name]:
                raise CheckpointError(f"{folder / _INDEX} lists the tensor {tensor} in {name}, which lacks it")
        return cls(folder, files, dict(file_of))

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._file_of)

    @property
    def num_bytes(self) -> int:
        """Size of all tensors together, as stored."""
        return sum(self.tensor(name).nbytes for name in self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor `name`. Raises CheckpointError when there is none."""
        return tuple(self.tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """Stored type of tensor `name`. Raises CheckpointError when there is none."""
        return self.tensor(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Tensor `name` on the CPU, in its stored type: a view of the mapping, to be copied and never written to.

        Raises CheckpointError when there is none.
        """
        if name not in self._file_of:
            files = ", ".join(sorted(self._files))
            raise CheckpointError(f"{self._folder} has no tensor {name} (looked in {files})")
        file = self._file_of[name]
        try:
            tensor: torch.Tensor = self._files[file].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self._folder / file}: cannot read {name}: {error}") from error
        return tensor

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
