"""Reading a .gguf file: its metadata, and its tensors as views of a memory mapping. Called by the other gguf modules.

The layout is that of the GGUF specification (docs/gguf.md of ggml), versions 2 and 3, little-endian. The `gguf`
library knows the quantized types; its own reader is not used, because it makes two numpy arrays of every token and
merge of the vocabulary, which takes seconds and more than 100 MB where a plain loop takes a tenth of a second.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from textgen_server.errors import CheckpointError

T = TypeVar("T")

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        shape: outermost dimension first, as in torch (the file has it reversed).
        kind: how the values are stored.
        offset: first byte, from the beginning of the file.
        num_bytes: size as stored.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    num_bytes: int


class GgufFile:
    """An open .gguf file.

    Attributes:
        path: where it is.
        metadata: every key with its value as a Python object.
        tensors: by name, in the file's order.
    """

    def __init__(self, path: Path) -> None:
        """Open and check `path`. Raises CheckpointError when it is damaged, truncated or of an unknown version."""
        self.path = path
        try:
            self._bytes: npt.NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
            self.metadata, self.tensors = _parse(self._bytes.data)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, OverflowError, struct.error) as error:
            raise CheckpointError(f"{path} is not a usable GGUF file: {error}") from error

    def find(self, key: str, kind: type[T]) -> T | None:
        """The value of metadata `key`, or None when it is absent. Raises CheckpointError when it is not a `kind`."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, kind):
            raise CheckpointError(f"{self.path}: {key} must be {kind.__name__}, not {type(value).__name__}")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """Like `find`, but an absent key is a CheckpointError, too."""
        value = self.find(key, kind)
        if value is None:
            raise CheckpointError(f"{self.path}: the metadata lacks {key}")
        return value

    def rows(self, name: str) -> npt.NDArray[np.uint8]:
        """A view of the stored bytes of tensor `name`: [rows, bytes of a row]."""
        tensor = self.tensors[name]
        stored = self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]
        return stored.reshape(math.prod(tensor.shape[:-1]), -1)

    def values(self, name: str, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What stored `rows` of tensor `name` stand for: [rows, columns]. Raises CheckpointError for unknown kinds."""
        kind = self.tensors[name].kind
        try:
            return np.asarray(dequantize(rows, kind), dtype=np.float32)
        except NotImplementedError as error:
            raise CheckpointError(f"{self.path}: {name} is stored as {kind.name}, which is not supported") from error


class _Cursor:
    """A position in the file's bytes that moves on as values are read."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def scalar(self, format: str) -> Any:
        (value,) = struct.unpack_from("<" + format, self.data, self.at)
        self.at += struct.calcsize(format)
        return value

    def string(self) -> str:
        start = self.at + 8
        end = start + self.scalar("Q")
        if end > len(self.data):
            raise ValueError("it ends in the middle of its metadata")
        self.at = end
        return str(self.data[start:end], "utf-8")

    def array(self) -> list[Any]:
        kind, length = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        if kind not in _SCALAR_FORMATS:
            raise ValueError(f"an array of values of unknown type {kind}")
        values = np.frombuffer(self.data, np.dtype("<" + _SCALAR_FORMATS[kind]), length, self.at)
        self.at += values.nbytes
        return list(values.tolist())

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALAR_FORMATS:
            raise ValueError(f"a value of unknown type {kind}")
        return self.scalar(_SCALAR_FORMATS[kind])


def _parse(data: memoryview) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Metadata and tensors of the file that `data` maps."""
    cursor = _Cursor(data)
    if bytes(data[:4]) != _MAGIC:
        raise ValueError("it does not begin with the letters GGUF")
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        raise ValueError(f"version {version} is not supported (2 and 3, little-endian, are)")
    num_tensors, num_keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {cursor.string(): cursor.value() for _ in range(num_keys)}
    tensors = [_tensor(cursor) for _ in range(num_tensors)]
    start = _aligned(cursor.at, metadata.get("general.alignment", 32))
    placed = [_placed(tensor, start, len(data)) for tensor in tensors]
    return metadata, {tensor.name: tensor for tensor in placed}


def _aligned(position: int, alignment: Any) -> int:
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    return -(-position // alignment) * alignment


def _tensor(cursor: _Cursor) -> GgufTensor:
    """The next entry of the tensor list; its offset still counts from the beginning of the tensor data."""
    name = cursor.string()
    shape = tuple(reversed([cursor.scalar("Q") for _ in range(cursor.scalar("I"))]))
    kind = GGMLQuantizationType(cursor.scalar("I"))
    values_per_block, bytes_per_block = GGML_QUANT_SIZES[kind]
    if not shape or 0 in shape or shape[-1] % values_per_block:
        raise ValueError(f"tensor {name} of type {kind.name} has the impossible shape {list(shape)}")
    num_bytes = math.prod(shape) // values_per_block * bytes_per_block
    return GgufTensor(name, shape, kind, cursor.scalar("Q"), num_bytes)


def _placed(tensor: GgufTensor, start: int, size: int) -> GgufTensor:
    end = start + tensor.offset + tensor.num_bytes
    if end > size:
        raise ValueError(f"it is truncated: tensor {tensor.name} ends at byte {end}, the file at byte {size}")
    return GgufTensor(tensor.name, tensor.shape, tensor.kind, start + tensor.offset, tensor.num_bytes)
