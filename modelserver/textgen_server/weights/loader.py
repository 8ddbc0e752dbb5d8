"""From the checkpoint's tensors to the device: slices, casts and joins, without holding a second copy.

Models never call this directly; layers and quantization methods do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.progress import Transfer
from textgen_server.weights.transport import Copies, PinnedCopies, Scratch


@dataclass(frozen=True)
class Part:
    """A slice of a checkpoint tensor: `length` entries from `start` along `dim`; without `dim`, all of it. A matrix
    that is stored the other way round is `transposed` first."""

    name: str
    dim: int | None = None
    start: int = 0
    length: int = 0
    transposed: bool = False

    @property
    def stored_dim(self) -> int:
        """The dimension of the stored tensor that is cut."""
        dim = self.dim or 0
        return 1 - dim if self.transposed else dim


@dataclass(frozen=True)
class Loader:
    """Reads a checkpoint for one device and one type of numbers. `transfer`, if any, counts what is read."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    transfer: Transfer | None = field(default=None, kw_only=True)
    _scratch: Scratch = field(default_factory=Scratch, init=False, repr=False, compare=False)

    def read(self, part: Part) -> Tensor:
        """The part as stored, on the CPU: a view of the mapped file."""
        if part.dim is None:
            return self.checkpoint.tensor(part.name)
        if part.transposed:
            return self.checkpoint.slice(part.name, part.stored_dim, part.start, part.length).t()
        return self.checkpoint.slice(part.name, part.dim, part.start, part.length)

    def stored_bytes(self, part: Part) -> int:
        """How many bytes of the files stand for the part."""
        total = self.checkpoint.stored_bytes(part.name)
        return total if part.dim is None else total * part.length // self.checkpoint.shape(part.name)[part.stored_dim]

    def tensor(self, parts: Sequence[Part]) -> Tensor:
        """The parts joined along their first dimension, on the device. One part that needs no cast stays a view of the
        mapped file on the CPU.

        Raises:
            CheckpointError: a part is absent, or they do not fit each other.
        """
        views = self._views(parts)
        if len(views) == 1 and self.device.type != "cuda":
            return views[0].to(self.device, self.dtype).contiguous()
        return self._joined(torch.empty(_shape(parts, views), dtype=self.dtype, device=self.device), views)

    def passing(self, parts: Sequence[Part]) -> Tensor:
        """As `tensor`, for what is packed or quantized at once: on the CPU, the next call may overwrite it."""
        if self.device.type != "cpu":
            return self.tensor(parts)
        views = self._views(parts)
        if len(views) == 1 and views[0].dtype == self.dtype and views[0].is_contiguous():
            return views[0]
        return self._joined(self._scratch.take(_shape(parts, views), self.dtype), views)

    def _views(self, parts: Sequence[Part]) -> list[Tensor]:
        views = [self.read(part) for part in parts]
        if self.transfer is not None:
            self.transfer.add(sum(self.stored_bytes(part) for part in parts))
        return views

    def _joined(self, target: Tensor, views: Sequence[Tensor]) -> Tensor:
        targets = [target] if len(views) == 1 else target.split([len(view) for view in views])
        self._copy(list(zip(targets, views, strict=True)))
        return target

    @cached_property
    def _copy(self) -> Copies | PinnedCopies:
        return PinnedCopies(self.device) if self.device.type == "cuda" else Copies()

    def __contains__(self, name: str) -> bool:
        return name in self.checkpoint


def _shape(parts: Sequence[Part], views: Sequence[Tensor]) -> tuple[int, ...]:
    """Of the parts together."""
    first, *others = views
    for part, view in zip(parts[1:], others, strict=True):
        if view.shape[1:] != first.shape[1:] or not view.dim():
            raise CheckpointError(
                f"{part.name} and {parts[0].name} belong side by side, and their shapes {list(view.shape)} and "
                f"{list(first.shape)} differ in more than the first dimension"
            )
    return (sum(len(view) for view in views), *first.shape[1:]) if others else tuple(first.shape)
