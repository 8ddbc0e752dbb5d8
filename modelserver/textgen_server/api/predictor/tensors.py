"""Tensors of the Open Inference Protocol and their raw form, in which they follow a JSON body or fill gRPC's
`raw_input_contents`: elements in row-major order, little-endian, each of BYTES behind its length in 4 bytes.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textgen_server.errors import InvalidRequest

BYTES = "BYTES"

# Letters of the struct module.
_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}

_LENGTH = struct.Struct("<I")
LARGEST_RANK = 8


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        datatype: a word of the protocol, as BYTES or FP32.
        values: in row-major order; elements of BYTES are str or bytes. Or, as TGI has it, numbers that are the bytes of
            one text.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]

    @property
    def is_spelled(self) -> bool:
        """True where the values are the bytes of one text, one by one."""
        values = self.values
        return self.datatype in (BYTES, "UINT8") and len(values) > 0 and all(type(value) is int for value in values)

    def check_shape(self) -> None:
        """Raises InvalidRequest when shape and values do not fit."""
        shape = list(self.shape)
        if len(shape) > LARGEST_RANK or any(size < 0 for size in shape):
            rule = f"must be up to {LARGEST_RANK} sizes of at least 0"
            raise InvalidRequest(f"`shape` of input `{self.name}` {rule}. Given: {shape[: LARGEST_RANK + 1]}", "inputs")
        count = math.prod(shape)
        if count != len(self.values):
            rule = f"{shape} stands for {count} elements, but there are {len(self.values)}"
            raise InvalidRequest(f"`shape` of input `{self.name}`: {rule}", "inputs")


def check_datatype(name: str, datatype: str) -> None:
    """Raises InvalidRequest, telling of the input `name`, when there is no such datatype."""
    if datatype != BYTES and datatype not in _FORMATS:
        known = ", ".join((BYTES, *_FORMATS))
        raise InvalidRequest(f"`datatype` of input `{name}` must be one of {known}. Given: {datatype!r}", "inputs")


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """The raw form of `values`; those of BYTES are str."""
    if datatype != BYTES:
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    texts = [value.encode() for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)


def unpack(name: str, datatype: str, raw: bytes) -> list[Any]:
    """The values in `raw`, which belongs to the input `name`; those of BYTES as bytes.

    Raises:
        InvalidRequest: there is no such datatype, or `raw` ends inside an element.
    """
    check_datatype(name, datatype)
    try:
        if datatype == BYTES:
            return _unpack_bytes(raw)
        return [value for (value,) in struct.iter_unpack(f"<{_FORMATS[datatype]}", raw)]
    except struct.error:
        raise InvalidRequest(f"the raw data of input `{name}` ends inside an element of {datatype}", "inputs") from None


def _unpack_bytes(raw: bytes) -> list[bytes]:
    values, place = [], 0
    while place < len(raw):
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if place + length > len(raw):
            raise struct.error
        values.append(raw[place : place + length])
        place += length
    return values
