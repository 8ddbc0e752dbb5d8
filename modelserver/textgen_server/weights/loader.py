"""From the checkpoint's tensors to the device: slices, casts and joins, without holding a second copy.

Models never call this directly; layers and quantization methods do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.progress import Transfer


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

    def read(self, part: Part) -> Tensor:
        """The part as stored, on the CPU: a view of the mapped file."""
        if part.dim is None:
            return self.checkpoint.tensor(part.name)
        if part.transposed:
            return self.checkpoint.slice(part.name, part.stored_dim, part.start, part.length).t()
        return self.checkpoint.slice(part.name, part.dim, part.start, part.length)

    def tensor(self, parts: Sequence[Part]) -> Tensor:
        """The parts joined along their first dimension, on the device. One part that needs no cast stays a view of the
        mapped file on the CPU."""
        views = [self.read(part) for part in parts]
        tensor = self._joined(views, parts[0].transposed)
        if self.transfer is not None:
            self.transfer.add(sum(view.nbytes for view in views))
        return tensor

    def _joined(self, views: Sequence[Tensor], transposed: bool) -> Tensor:
        if len(views) == 1:
            tensor = views[0].to(self.device, self.dtype)
            return tensor.contiguous() if transposed else tensor
        rows = sum(view.shape[0] for view in views)
        joined = torch.empty((rows, *views[0].shape[1:]), dtype=self.dtype, device=self.device)
        for target, view in zip(joined.split([view.shape[0] for view in views]), views, strict=True):
            target.copy_(view)
        return joined

    def __contains__(self, name: str) -> bool:
        return name in self.checkpoint
