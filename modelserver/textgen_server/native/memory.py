"""Memory of the CPU that is read again and again, all of it: packed weights, keys and values.

It lies in huge pages where the kernel has them (Linux's transparent ones): finding the next page of 4 kB takes longer
than reading it, in a virtual machine above all.
"""

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 1 << 21
CHUNK = 1 << 26
"""Small tensors share mappings of so many bytes. Those behind the last tensor are never touched, and cost nothing."""
_ALIGNMENT = 64

_free = [memoryview(b"")]


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that the kernel gives page by page, when they are first written: writing a gigabyte of them takes a second
    or more of the start."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.zeros(tuple(shape), dtype=dtype)
    if len(_free[0]) < size:
        _free[0] = _mapped(max(size, CHUNK))
    tensor = torch.frombuffer(_free[0], dtype=dtype, count=size // dtype.itemsize)
    _free[0] = _free[0][size + -size % _ALIGNMENT :]
    return tensor.view(tuple(shape))


def _mapped(size: int) -> memoryview:
    """At least `size` bytes of zeros from the beginning of a huge page on."""
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[-torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE_PAGE :]
