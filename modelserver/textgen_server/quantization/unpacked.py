"""Checkpoints whose matrices are packed, shown as if they held plain ones, so that all that reads matrices works: the
check against config.json, families, slices for ranks, adapters that are merged.
"""

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Part

Range = tuple[int, int]
"""(start, length)"""


class Block(Protocol):
    """A block of a packed matrix, on the CPU: quantization.grouped.Grouped, quantization.scaled.Scaled."""

    def dequantized(self) -> Tensor:
        """What it stands for, float32 [out, in]."""
        ...


class Packing(Protocol):
    """How a method stores the matrices of linear layers. `prefix` is what the names of a layer's tensors begin with."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Endings of the tensors of which each layer that is packed has one."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the tensors that together stand for one matrix."""
        ...

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """(out, in). Raises CheckpointError when the layer's tensors do not fit each other or the configuration."""
        ...

    def kind(self, stored: Checkpoint, prefix: str) -> type[Block]:
        """What `read` returns for that layer."""
        ...

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Block:
        """A block of the matrix, cut anywhere, on the CPU."""
        ...


class Unpacked(Checkpoint):
    """`stored`, with a tensor `x.weight` of float32 where it has the parts of a packed one.

    Args:
        transposed: matrices are shown as [in, out], which some families expect (GPT-2).
        values: without them, tensors are of the device "meta": shapes for the price of none.

    Raises CheckpointError where the checkpoint has scales of something else than matrices.
    """

    def __init__(self, stored: Checkpoint, packing: Packing, transposed: bool = False, values: bool = True) -> None:
        # No super().__init__: everything is asked of `stored`.
        self.stored = stored
        self.packing = packing
        self.transposed = transposed
        self._values = values
        # AutoAWQ scales some models' activations too; without that, all they say would be nonsense.
        scales = sorted(name for name in stored.names if name.endswith(".scales"))
        other = [name for name in scales if name.removesuffix(".scales") not in self._prefixes]
        if other:
            raise CheckpointError(
                f"{other[0]} and {len(other) - 1} more scale something else than a matrix, which is not supported; "
                "serve the original model with --quantize bitsandbytes-nf4"
            )

    @cached_property
    def _prefixes(self) -> frozenset[str]:
        marks = [f".{mark}" for mark in self.packing.marks]
        names = self.stored.names
        return frozenset(name.removesuffix(mark) for mark in marks for name in names if name.endswith(mark))

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors, matrices in place of what they are packed in."""
        parts = {f"{prefix}.{suffix}" for prefix in self._prefixes for suffix in self.packing.suffixes}
        return (self.stored.names - parts) | {f"{prefix}.weight" for prefix in self._prefixes}

    @property
    def num_bytes(self) -> int:
        """Size of all tensors, as stored."""
        return self.stored.num_bytes

    def stored_bytes(self, name: str) -> int:
        """As Checkpoint.stored_bytes; of a packed matrix, all that stands for it."""
        prefix = self.prefix(name)
        if prefix is None:
            return self.stored.stored_bytes(name)
        parts = [f"{prefix}.{suffix}" for suffix in self.packing.suffixes]
        return sum(self.stored.stored_bytes(part) for part in parts if part in self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored or (isinstance(name, str) and self.prefix(name) is not None)

    def prefix(self, name: str) -> str | None:
        """What the names of the packed matrix `name` begin with; None where it is no packed matrix."""
        prefix = name.removesuffix(".weight")
        return prefix if prefix != name and prefix in self._prefixes else None

    @property
    def kinds(self) -> set[type[Block]]:
        """What `block` returns for any of the packed matrices."""
        return {self.packing.kind(self.stored, prefix) for prefix in self._prefixes}

    def kind(self, name: str) -> type[Block] | None:
        """What `block` returns for the matrix `name`; None where it is not packed."""
        prefix = self.prefix(name)
        return None if prefix is None else self.packing.kind(self.stored, prefix)

    def block(self, part: Part) -> Block:
        """What stands for a part of a packed matrix."""
        prefix = part.name.removesuffix(".weight")
        outputs, inputs = ((0, size) for size in self.packing.shape(self.stored, prefix))
        if part.dim == 0:
            outputs = (part.start, part.length)
        elif part.dim == 1:
            inputs = (part.start, part.length)
        return self.packing.read(self.stored, prefix, outputs, inputs)

    def shape(self, name: str) -> tuple[int, ...]:
        """As Checkpoint.shape."""
        prefix = self.prefix(name)
        if prefix is None:
            self._check_plain(name)
            return self.stored.shape(name)
        shape = self.packing.shape(self.stored, prefix)
        return shape[::-1] if self.transposed else shape

    def _check_plain(self, name: str) -> None:
        """Codes without scales would be read as if they were the weights."""
        if self.stored.dtype(name).itemsize == 1:
            raise CheckpointError(
                f"{name} holds {self.stored.dtype(name)} without a scale beside it: the checkpoint is damaged"
            )

    def dtype(self, name: str) -> torch.dtype:
        """As Checkpoint.dtype."""
        return self.stored.dtype(name) if self.prefix(name) is None else torch.float32

    def tensor(self, name: str) -> Tensor:
        """As Checkpoint.tensor; a packed matrix is dequantized, in float32, which is exact."""
        if self.prefix(name) is None:
            return self.stored.tensor(name)
        return self.slice(name, 0, 0, self.shape(name)[0])

    def slice(self, name: str, dim: int, start: int, length: int) -> Tensor:
        """As Checkpoint.slice; only what is asked for is dequantized."""
        prefix = self.prefix(name)
        if prefix is None:
            return self.stored.slice(name, dim, start, length)
        shape = self.shape(name)
        if min(start, length) < 0 or dim not in (0, 1) or start + length > shape[dim]:
            wanted = f"elements {start} to {start + length} of dimension {dim}"
            raise CheckpointError(f"{name} of shape {list(shape)}, which is packed, lacks {wanted}")
        if not self._values:
            cut = [length if axis == dim else size for axis, size in enumerate(shape)]
            return torch.empty(cut, dtype=torch.float32, device="meta")
        block = [(start, length) if axis == dim else (0, size) for axis, size in enumerate(shape)]
        outputs, inputs = reversed(block) if self.transposed else block
        weight = self.packing.read(self.stored, prefix, outputs, inputs).dequantized()
        return weight.t() if self.transposed else weight


def matrix_shape(stored: Checkpoint, name: str) -> tuple[int, int]:
    """The two sizes of tensor `name`. Raises CheckpointError when it is no matrix."""
    shape = stored.shape(name)
    if len(shape) != 2:
        raise CheckpointError(f"{name} of shape {list(shape)} is no matrix")
    return shape[0], shape[1]


def check_shape(stored: Checkpoint, name: str, wanted: tuple[int, ...], because: str) -> None:
    """Raise CheckpointError unless tensor `name` has the shape `wanted`."""
    shape = stored.shape(name)
    if shape != wanted:
        raise CheckpointError(f"{name} of shape {list(shape)} is not {list(wanted)}, as {because}")


def check_dtype(stored: Checkpoint, name: str, wanted: torch.dtype) -> None:
    """Raise CheckpointError unless tensor `name` holds such numbers."""
    if stored.dtype(name) != wanted:
        raise CheckpointError(f"{name} holds {stored.dtype(name)}, and only {wanted} can be read")


def whole_number(fields: dict[str, object], where: str, names: tuple[str, ...], default: int | None = None) -> int:
    """The first of the fields `names` that is there. Raises CheckpointError when it is no whole number."""
    name = next((name for name in names if fields.get(name) is not None), names[0])
    value = fields.get(name, default)
    if type(value) is not int:
        raise CheckpointError(f"{where}: {name} must be a whole number, not {value!r}")
    return value


def whole_group_size(fields: dict[str, object], where: str, names: tuple[str, ...] = ("group_size",)) -> int:
    """How many input features share a scale; -1, which is usual, for all. Raises CheckpointError if it is neither."""
    size = whole_number(fields, where, names, -1)
    if size < 1 and size != -1:
        raise CheckpointError(f"{where}: group_size must be -1 or above 0, not {size}")
    return size
