"""Numbers between host and device, in few copies that nothing waits for. Called by the runner and the sampler.

On a GPU both ways lead through pinned memory, which torch's allocator does not give to others before the copy is over.
So a step can be launched while the one before it still reads what it was sent.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes. Triton has kernels of its own for pointers that are multiples of 16."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Place:
    """Where an array lies among packed bytes."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, packed: Tensor) -> Tensor:
        """The array, as a view of `packed` [bytes] uint8."""
        return packed[self.start : self.end].view(self.dtype).view(self.shape)

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def places(arrays: Iterable[Array]) -> list[Place]:
    """Where `arrays` lie when they are packed, one behind another."""
    arrays = list(arrays)
    starts = itertools.accumulate((-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays), initial=0)
    return [
        Place(start, array.shape, torch.from_numpy(array).dtype) for start, array in zip(starts, arrays, strict=False)
    ]


def pack(arrays: Sequence[Array], device: torch.device) -> tuple[Tensor, list[Place]]:
    """`arrays`, at least one, in one piece of memory [bytes] uint8, from which they can be copied to `device`."""
    where = places(arrays)
    packed = torch.empty(where[-1].end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = packed.numpy()
    for array, place in zip(arrays, where, strict=True):
        host[place.start : place.end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return packed, where


def to_device(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """`arrays`, which nobody may change any more, on the device: by one copy, or where they are if that is the CPU."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed, where = pack(arrays, device)
    there = packed.to(device, non_blocking=True)
    return [place.of(there) for place in where]


class ToHost:
    """Tensors on their way to the host. They may be overwritten as soon as this is made, by work on the same stream.

    Args:
        places: of what lies packed in the one tensor that there is then.
    """

    def __init__(self, tensors: Sequence[Tensor], places: Sequence[Place] | None = None) -> None:
        self._tensors = [_copied(tensor) for tensor in tensors]
        self._places = places
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event(blocking=True)  # to spin would take a core from others
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[Tensor]:
        """The tensors on the host, once they are there; what was launched later may still run. Raises what the device
        found wrong with the work so far."""
        if self._arrived is not None:
            self._arrived.synchronize()
        if self._places is None:
            return self._tensors
        return [place.of(self._tensors[0]) for place in self._places]


def _copied(tensor: Tensor) -> Tensor:
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return there.copy_(tensor, non_blocking=True)
