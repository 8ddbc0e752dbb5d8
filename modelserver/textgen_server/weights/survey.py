"""What a model will read, found out by building it without reading: is the checkpoint the one that config.json means?

Used by runner/load.py. Layers read slices, and a slice of a larger matrix would be read without complaint.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.weights.loader import Loader, Part

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Survey(Loader):
    """Reads nothing, on the device "meta", and remembers what was asked for."""

    parts: list[Part] = field(default_factory=list)

    def read(self, part: Part) -> Tensor:
        """A tensor without values, of the part's shape, also where the checkpoint's is smaller."""
        self.parts.append(part)
        shape = list(self.checkpoint.shape(part.name))
        if part.dim is not None and part.stored_dim < len(shape):
            shape[part.stored_dim] = part.length
        tensor = torch.empty(shape, dtype=self.checkpoint.dtype(part.name), device="meta")
        return tensor.t() if part.transposed else tensor

    @property
    def numbers(self) -> int:
        """How many were asked for."""
        return sum(self._numbers(part) for part in self.parts)

    def _numbers(self, part: Part) -> int:
        shape = self.checkpoint.shape(part.name)
        return math.prod(shape) if part.dim is None else math.prod(shape) * part.length // shape[part.stored_dim]

    def check(self, hidden_size: int, vector_sizes: Collection[int]) -> None:
        """Raise CheckpointError unless one rank alone would use every tensor that it reads as a whole, and no layer of
        the checkpoint were left over.

        Args:
            hidden_size: the size that matrices have in the dimension that is not cut.
            vector_sizes: lengths that vectors may have.
        """
        by_name: dict[str, list[Part]] = {}
        for part in self.parts:
            by_name.setdefault(part.name, []).append(part)
        for name, parts in by_name.items():
            self._check_tensor(name, parts, hidden_size, vector_sizes)
        check_leftovers(self.checkpoint.names, by_name)

    def _check_tensor(self, name: str, parts: list[Part], hidden_size: int, vector_sizes: Collection[int]) -> None:
        shape, dtype = self.checkpoint.shape(name), self.checkpoint.dtype(name)
        if not dtype.is_floating_point:
            numbers = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} holds {numbers} numbers, and config.json has no quantization_config")
        if parts[0].dim is None:
            if len(shape) == 1 and shape[0] not in vector_sizes:
                raise CheckpointError(_mismatch(name, shape, f"{hidden_size} in dimension 0"))
            return
        cut = parts[0].stored_dim
        if cut >= len(shape) or (len(shape) == 1 and name.endswith(".weight")):
            raise CheckpointError(_mismatch(name, shape, "a matrix"))
        if len(shape) == 2 and shape[1 - cut] != hidden_size:
            wanted = f"{hidden_size}, its hidden_size, in dimension {1 - cut}"
            raise CheckpointError(_mismatch(name, shape, wanted))
        used = _length_covered((part.start, part.start + part.length) for part in parts)
        if used != shape[cut]:
            raise CheckpointError(_mismatch(name, shape, f"{used} in dimension {cut}"))


def _mismatch(name: str, shape: tuple[int, ...], wanted: str) -> str:
    return f"{name} of shape {list(shape)} does not fit config.json, which makes it {wanted}"


def _length_covered(ranges: Iterable[tuple[int, int]]) -> int:
    covered = end = 0
    for start, stop in sorted(ranges):
        covered += max(stop - max(start, end), 0)
        end = max(end, stop)
    return covered


def check_leftovers(names: Iterable[str], used: Collection[str]) -> None:
    """Raise CheckpointError where `names`, the checkpoint's, go on with layers or experts behind those that are `used`:
    config.json is another model's then."""
    kinds = {_NUMBER.sub("*", name) for name in used}
    left = sorted(name for name in names if name not in used and _NUMBER.sub("*", name) in kinds)
    if left:
        raise CheckpointError(
            f"{left[0]} and {len(left) - 1} more tensors are of layers that config.json does not count: it is another "
            "model's, or its number of layers is wrong"
        )
