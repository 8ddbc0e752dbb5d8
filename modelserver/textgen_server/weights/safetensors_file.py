"""Writing a safetensors file piece by piece, for models larger than memory. Called by conversions.

The format: 8 bytes with the header's length, little-endian; the header, JSON, padded with spaces; the tensors' bytes,
without gaps. The `safetensors` library can only write tensors that are all in memory.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# The tensors begin at a page, so that those whose sizes allow it are aligned for vector instructions when mapped.
_DATA_ALIGNMENT = 4096


def write_float32(path: Path, shapes: Mapping[str, tuple[int, ...]], pieces: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write tensors of type float32 and wait until they are on disk.

    Args:
        path: the new file.
        shapes: the tensors' names and shapes, in the order of their data.
        pieces: the data, cut anywhere.

    Raises ValueError when `pieces` are more or less than `shapes` say.
    """
    header, data_size = _header(shapes)
    with path.open("wb") as file:
        file.write(header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype="<f4").data)
        if file.tell() != len(header) + data_size:
            raise ValueError(f"{path}: wrote {file.tell() - len(header)} bytes of tensors instead of {data_size}")
        file.flush()
        os.fsync(file.fileno())


def _header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """Everything before the tensors' bytes, and how many of those there will be."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-(8 + len(text)) // _DATA_ALIGNMENT) * _DATA_ALIGNMENT - 8)
    return len(padded).to_bytes(8, "little") + padded, end
