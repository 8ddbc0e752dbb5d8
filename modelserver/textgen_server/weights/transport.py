"""How values of mapped files get to where they stay. Used by loader.py.

Most of the time goes into memory that is touched for the first time, not into copying: four fifths on the CPU of
bench/RESULTS.md. So what is only passed through comes by way of the same memory every time.
"""

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""A tensor to be filled, and the values for it, of any type."""

READERS = 8
PIECE_BYTES = 8 << 20


class Scratch:
    """Memory on the CPU that is used again and again."""

    def __init__(self, pinned: bool = False) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._pinned = pinned

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content. What was taken before is overwritten with it."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if size > len(self._memory):
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return self._memory[:size].view(dtype).view(tuple(shape))


class Copies:
    """Copies in the calling thread, on any device; between types and layouts, all cores work on a large tensor."""

    def __call__(self, pairs: Sequence[Pair]) -> None:
        """Fill the first of each pair from the second."""
        for target, values in pairs:
            target.copy_(values)


class PinnedCopies:
    """Copies from mapped files to a GPU. Several threads copy pieces into pinned memory, so that pages come from
    several places of the files at once; from there a CUDA stream of its own takes them while the threads go on.

    Numbers change their type on the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="weights")
        self._buffers: queue.SimpleQueue[tuple[Scratch, torch.cuda.Event]] = queue.SimpleQueue()
        for _ in range(2 * READERS):  # while the GPU takes one, its thread fills another
            self._buffers.put((Scratch(pinned=True), torch.cuda.Event()))

    def __call__(self, pairs: Sequence[Pair]) -> None:
        """Fill the first of each pair from the second. On return the values are on their way, and what the current
        stream does next comes after them."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)  # the allocator may have given targets memory that is still being read
        for _ in self._threads.map(self._copy, pieces(pairs, PIECE_BYTES)):
            pass
        current.wait_stream(self._stream)

    @torch.inference_mode()  # of the thread; without it the targets, made in that mode, could not be written
    def _copy(self, pair: Pair) -> None:
        target, values = pair
        buffer, taken = self._buffers.get()
        try:
            taken.synchronize()
            staged = buffer.take(values.shape, values.dtype)
            fill(staged, values)
            with torch.cuda.stream(self._stream):
                target.copy_(staged.to(self._device, non_blocking=True), non_blocking=True)
                taken.record(self._stream)
        finally:
            self._buffers.put((buffer, taken))


def pieces(pairs: Sequence[Pair], size: int) -> Iterator[Pair]:
    """The pairs, cut along their first dimension so that no piece's values have more than `size` bytes, unless one
    row has."""
    for target, values in pairs:
        if not values.dim() or not len(values):
            yield target, values
            continue
        rows = max(1, size * len(values) // max(values.nbytes, 1))
        yield from zip(target.split(rows), values.split(rows), strict=True)


def fill(target: Tensor, values: Tensor) -> None:
    """Copy between tensors of one type and shape on the CPU, on this thread alone where that is possible."""
    if values.is_contiguous():
        np.copyto(_bytes(target), _bytes(values))
    else:
        target.copy_(values)


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    flat: npt.NDArray[np.uint8] = tensor.view(-1).view(torch.uint8).numpy()
    return flat
