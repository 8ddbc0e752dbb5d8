"""Converting PyTorch's .bin files into safetensors. A process of its own, which local.py starts: the front never
imports torch.

Only tensors are read (torch's weights_only loading). A pickle that asks for anything else is refused, as unpickling can
run any code.
"""

import errno
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from textgen_server.errors import CheckpointError, ModelSourceError, StartupError
from textgen_server.weights.config_files import write_json
from textgen_server.weights.damage import what_is_wrong

_INDEX = "model.safetensors.index.json"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"


def convert(sources: Sequence[Path], target: Path) -> None:
    """Write the tensors of .bin files into the folder `target`, a safetensors file for each and an index, and print the
    size of each that is done on a line of its own.

    Raises CheckpointError when a file is damaged or holds more than tensors, ModelSourceError when the disk is full.
    """
    file_of: dict[str, str] = {}
    for number, path in enumerate(sources, 1):
        name = f"model-{number:05}-of-{len(sources):05}.safetensors"
        tensors = _separate(_load(path))
        if twice := tensors.keys() & file_of.keys():
            raise CheckpointError(f"{path} holds {min(twice)}, which another file of the model holds too")
        file_of |= dict.fromkeys(tensors, name)
        _save(tensors, target / name, path)
        print(path.stat().st_size, flush=True)
    write_json(target, _INDEX, {"metadata": {}, "weight_map": file_of})


def _load(path: Path) -> dict[str, Tensor]:
    try:
        content = _unpickle(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_more_than_tensors(path)) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path, error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} must hold named tensors and nothing else; is it a training checkpoint?")
    return content


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(len(_ZIP))
    if head != _ZIP and not head.startswith(_PICKLE):
        raise ValueError("PyTorch did not write it")
    # Files from before PyTorch 1.6 are no zip archives, and cannot be mapped.
    return torch.load(path, map_location="cpu", mmap=head == _ZIP, weights_only=True)


def _more_than_tensors(path: Path) -> str:
    return (
        f"{path} holds more than tensors, and reading it could run code, so it is refused; convert it to safetensors "
        "in a place that may run its code, or get a copy in safetensors"
    )


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values, no two in the same memory, which safetensors cannot store: tied weights become two."""
    storages: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.contiguous().clone() if address in storages else tensor.contiguous()
        storages.add(address)
    return separate


def _save(tensors: dict[str, Tensor], target: Path, source: Path) -> None:
    try:
        save_file(tensors, target, {"format": "pt"})
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise CheckpointError(f"{source} cannot be written as safetensors: {error}") from error
        raise ModelSourceError(_no_space(target, source)) from error
    except KeyError as error:
        raise CheckpointError(f"{source} holds numbers of a type that safetensors does not have: {error}") from error


def _no_space(target: Path, source: Path) -> str:
    free, needed = shutil.disk_usage(target.parent).free, source.stat().st_size
    return f"no space left for {target}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"


def main() -> int:
    """Arguments: the folder to write, the files to read. What is wrong is the last line of stderr."""
    try:
        convert([Path(source) for source in sys.argv[2:]], Path(sys.argv[1]))
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
