"""Folders and files with a model on this machine: what they hold, converted where it is not safetensors. Called by
source.py."""

import subprocess
import sys
import time
from pathlib import Path

from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import read_json
from textgen_server.weights.conversion import converted
from textgen_server.weights.progress import Progress, Transfer

PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLES = "pytorch_model*.bin"
# What is copied beside converted weights: all that is small, whatever the family needs of it.
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
_NOT_COPIED = ("pytorch_model.bin.index.json", "model.safetensors.index.json", "adapter_config.json", "textgen.json")


def usable(folder: Path, name: str, cache: Path, progress: Progress) -> tuple[Path, str]:
    """The folder of the checkpoint in `folder`, and its name: `folder` itself, or what its weights were converted to.

    Raises CheckpointError when it holds none, or files are damaged.
    """
    if not _lacking(folder):
        return folder, name
    if (folder / "config.json").is_file() and (weights := pickles(folder)):
        return _from_pickles(folder, weights, cache, progress), name
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return from_gguf(ggufs[0], cache, progress), ggufs[0].stem
    if ggufs:
        raise CheckpointError(f"{folder} holds {len(ggufs)} .gguf files: give the path of one, such as {ggufs[0]}")
    raise CheckpointError(_incomplete(folder))


def has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _lacking(folder: Path) -> list[str]:
    """What a checkpoint needs and `folder` does not have."""
    needed = {"config.json": (folder / "config.json").is_file(), "*.safetensors": has_safetensors(folder)}
    return [what for what, there in needed.items() if not there]


def _incomplete(folder: Path) -> str:
    there = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
    return f"{folder} is not a model folder: it has no {' and no '.join(_lacking(folder))}; it holds {shown}"


def from_gguf(file: Path, cache: Path, progress: Progress) -> Path:
    """The folder that the .gguf file is converted to."""
    return converted(file, cache, _convert_gguf, progress)


def _convert_gguf(file: Path, folder: Path, progress: Progress) -> None:
    from textgen_server.weights.gguf import convert

    started = time.monotonic()
    progress(f"converting {file} to safetensors, once")
    convert(file, folder, progress)
    size = (folder / "model.safetensors").stat().st_size
    progress(f"converted {file.name}: {size / 1e9:.2f} GB in {time.monotonic() - started:.1f} s")


def pickles(folder: Path) -> list[Path]:
    """The .bin files of a model: those that the index lists, else pytorch_model.bin, else all of that kind.

    Raises CheckpointError when one is missing.
    """
    index = read_json(folder, PICKLE_INDEX)
    if index is None:
        single = folder / "pytorch_model.bin"
        return [single] if single.is_file() else sorted(folder.glob(PICKLES))
    file_of = index.get("weight_map")
    if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
        raise CheckpointError(f"{folder / PICKLE_INDEX}: weight_map must map names of tensors to names of files")
    paths = [folder / name for name in sorted(set(file_of.values()))]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(
                f"{folder / PICKLE_INDEX} lists {path.name}, which is missing: the download is incomplete"
            )
    return paths


def small_files(folder: Path) -> set[Path]:
    """What belongs beside converted weights: config, tokenizer, and whatever else is small."""
    return {path for pattern in _COPIED for path in folder.glob(pattern) if path.name not in _NOT_COPIED}


def _from_pickles(folder: Path, weights: list[Path], cache: Path, progress: Progress) -> Path:
    copied = small_files(folder)
    size = sum(path.stat().st_size for path in weights)

    def convert(source: Path, target: Path, progress: Progress) -> None:
        progress(f"converting the .bin files of {source} to safetensors, once")
        transfer = Transfer("converting", source.name, size, progress)
        _convert_pickles(weights, target, transfer)
        for path in copied:
            (target / path.name).write_bytes(path.read_bytes())
        transfer.report()

    return converted(folder, cache, convert, progress, [*weights, *copied], needed=size)


def _convert_pickles(weights: list[Path], target: Path, transfer: Transfer) -> None:
    """In a process of its own: this one may be the front, which never imports torch."""
    command = [sys.executable, "-m", "textgen_server.weights.pickled", str(target), *map(str, weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                transfer.add(int(line))
            complaint = process.stderr.read() if process.stderr else ""
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = complaint.strip().splitlines() or [f"the conversion of {weights[0].parent} ended without a word"]
        raise CheckpointError(lines[-1])
