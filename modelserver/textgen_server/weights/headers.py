"""What the safetensors files of a model hold, read from their headers alone: before torch is imported, and before
anything large is read. Used by the launcher and by checkpoint.py.

The format: 8 bytes with the header's length, little-endian; the header, a JSON object; the tensors' bytes.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import read_json
from textgen_server.weights.damage import what_is_wrong

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # the safetensors library's own limit
# Bits of a number of each type.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A stored tensor: the file's name, its type as safetensors calls it, its shape, and its size in bytes."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


def read_headers(folder: Path) -> dict[str, Entry]:
    """The tensors in `folder`, by name: those of model.safetensors, else of the files that model.safetensors.index.json
    lists, else of every *.safetensors.

    Raises CheckpointError, naming the file, when one is missing, damaged or truncated, or when they contradict each
    other.
    """
    if (folder / _SINGLE).exists():
        return _of_files(folder, [_SINGLE])
    index = read_json(folder, _INDEX)
    if index is not None:
        return _of_index(folder, index)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"{folder} holds no *.safetensors files")
    return _of_files(folder, names)


def _of_files(folder: Path, names: list[str]) -> dict[str, Entry]:
    """All tensors of all the files; no two files may have the same."""
    tensors: dict[str, Entry] = {}
    for file in names:
        for name, entry in _of_file(folder / file).items():
            if name in tensors:
                raise CheckpointError(f"{folder}: both {tensors[name].file} and {file} hold the tensor {name}")
            tensors[name] = entry
    return tensors


def _of_index(folder: Path, index: dict[str, Any]) -> dict[str, Entry]:
    """The tensors that the index lists, each of which must be where it says."""
    file_of = index.get("weight_map")
    if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
        raise CheckpointError(f"{folder / _INDEX}: weight_map must map names of tensors to names of files")
    files = {}
    for file in sorted(set(file_of.values())):
        if not (folder / file).exists():
            raise CheckpointError(f"{folder / _INDEX} lists {file}, which is missing: the download is incomplete")
        files[file] = _of_file(folder / file)
    for name, file in file_of.items():
        if name not in files[file]:
            raise CheckpointError(f"{folder / _INDEX} lists the tensor {name} in {file}, which lacks it")
    return {name: files[file][name] for name, file in file_of.items()}


def _of_file(path: Path) -> dict[str, Entry]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("its header is not whole")
            header = json.loads(file.read(length), object_pairs_hook=_without_repetition)
        return _entries(path, header, size - 8 - length)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path, error)}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its header has {next(name for name in names if names.count(name) > 1)} twice")
    return fields


def _entries(path: Path, header: Any, data_size: int) -> dict[str, Entry]:
    """Raises ValueError when the header contradicts itself or the file's size."""
    tensors, end = {}, 0
    try:
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            shape = tuple(int(size) for size in entry["shape"])
            _check(path, name, entry["dtype"], shape, stop - start)
            tensors[name] = Entry(path.name, entry["dtype"], shape, stop - start)
            end = max(end, stop)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header is not of the format: {error!r}") from error
    if end != data_size:
        raise ValueError(f"it has {data_size} bytes of tensors, and its header says {end}")
    return tensors


def _check(path: Path, name: str, dtype: str, shape: tuple[int, ...], num_bytes: int) -> None:
    if dtype not in _BITS:
        raise CheckpointError(f"{path}: {name} has numbers of type {dtype}, which is not known")
    if num_bytes * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"{name} of shape {list(shape)} and type {dtype} cannot have {num_bytes} bytes")
