"""Converting a .gguf file into a folder as on the Hugging Face hub. Called by source.py, through conversion.py.

The weights become float32, exactly the values that the quantized ones stand for, so that everything after this point
knows one format only.
"""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen_server.errors import CheckpointError
from textgen_server.weights import gguf_llama, safetensors_file
from textgen_server.weights.config_files import write_json
from textgen_server.weights.gguf_file import GgufFile
from textgen_server.weights.gguf_tokenizer import write_tokenizer
from textgen_server.weights.progress import Progress, Transfer

# general.architecture -> the module that knows it: functions config, tensor_names and row_order, as in gguf_llama.
_ARCHITECTURES: dict[str, ModuleType] = {"llama": gguf_llama}
_VALUES_PER_PIECE = 1 << 20  # 4 MiB of float32: large enough for numpy, small enough for the processor's cache


def convert(path: Path, folder: Path, progress: Progress) -> None:
    """Write config.json, generation_config.json, the tokenizer's files and model.safetensors into the empty `folder`.

    Holds a few MiB of the model in memory at a time. Raises CheckpointError when the file is damaged or of a kind that
    is not supported.
    """
    source = GgufFile(path)
    architecture = _architecture(source)
    config = architecture.config(source) | _special_ids(source)
    write_json(folder, "config.json", config)
    write_json(folder, "generation_config.json", _generation_config(source))
    write_tokenizer(source, folder, config["max_position_embeddings"])
    names = architecture.tensor_names(source)
    shapes = {theirs: source.tensors[ours].shape for ours, theirs in names.items()}
    pieces = _pieces(source, architecture, list(names), progress)
    safetensors_file.write_float32(folder / "model.safetensors", shapes, pieces)


def _architecture(source: GgufFile) -> ModuleType:
    name = source.need("general.architecture", str)
    if (source.find("split.count", int) or 1) > 1:
        raise CheckpointError(f"{source.path} is one part of several: join them with llama-gguf-split --merge")
    if name not in _ARCHITECTURES:
        supported = ", ".join(_ARCHITECTURES)
        raise CheckpointError(f"{source.path}: architecture {name!r} is not supported in GGUF (supported: {supported})")
    return _ARCHITECTURES[name]


def _special_ids(source: GgufFile) -> dict[str, int]:
    roles = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: source.find(f"tokenizer.ggml.{role}_token_id", int) for name, role in roles.items()}
    return {name: id for name, id in ids.items() if id is not None}


def _generation_config(source: GgufFile) -> dict[str, Any]:
    """The special ids; every token that ends a turn, a message or the text ends generation."""
    ends = [source.find(f"tokenizer.ggml.{role}_token_id", int) for role in ("eos", "eot", "eom")]
    unique = list(dict.fromkeys(id for id in ends if id is not None))
    config: dict[str, Any] = dict(_special_ids(source))
    return config | {"eos_token_id": unique} if len(unique) > 1 else config


def _pieces(
    source: GgufFile, architecture: ModuleType, names: list[str], progress: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    """The values of all tensors in turn, some rows at a time."""
    transfer = Transfer("converting", source.path.name, sum(source.tensors[name].num_bytes for name in names), progress)
    for name in names:
        rows = source.rows(name)
        order = architecture.row_order(source, name)
        if order is not None:
            rows = rows[order]
        step = max(1, _VALUES_PER_PIECE // source.tensors[name].shape[-1])
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            yield source.values(name, piece)
            transfer.add(piece.nbytes)
