"""Writing a model's tensors as they come, into as many safetensors files as they need, named as on the hub."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from textgen_server.weights.config_files import write_json

SHARD_BYTES = 2 << 30


class Shards:
    """The files of one model. Tensors wait in memory until they fill a file.

    Args:
        folder: where the files are written.
        limit: bytes of a file at most, unless a single tensor is larger.
    """

    def __init__(self, folder: Path, limit: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._limit = limit
        self._waiting: dict[str, Tensor] = {}
        self._written: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor on the CPU, which may be a view of a mapped file."""
        if self._waiting and sum(other.nbytes for other in self._waiting.values()) + tensor.nbytes > self._limit:
            self._write()
        self._waiting[name] = tensor
        self._total += tensor.nbytes

    def close(self) -> None:
        """Write what waits, and give the files their names: model.safetensors, or parts with an index."""
        self._write()
        count = len(self._written)
        if count == 1:
            self._part(0).rename(self._folder / "model.safetensors")
            return
        file_of: dict[str, str] = {}
        for index, names in enumerate(self._written):
            file = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
            self._part(index).rename(self._folder / file)
            file_of |= dict.fromkeys(names, file)
        index_of_files = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(file_of.items()))}
        write_json(self._folder, "model.safetensors.index.json", index_of_files)

    def _write(self) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self._waiting.items()}
        save_file(tensors, self._part(len(self._written)), {"format": "pt"})
        self._written.append(list(tensors))
        self._waiting = {}

    def _part(self, index: int) -> Path:
        return self._folder / f"part-{index}.safetensors"
