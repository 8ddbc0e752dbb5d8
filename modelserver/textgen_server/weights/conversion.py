"""The cache of converted models: each is converted once, published whole or not at all, and checked before reuse.

Called by source.py. What is inside a conversion is not known here.

    <cache>/textgen-converted/
        NAME-HASH/            a finished conversion and its manifest, textgen.json
        .NAME-HASH.lock       held by the process that converts
        .NAME-HASH.partial/   what that process has written so far
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from textgen_server.errors import CheckpointError, ModelSourceError, NoSpace
from textgen_server.weights.config_files import read_json, write_json
from textgen_server.weights.progress import Progress

Convert = Callable[[Path, Path, Progress], None]

# Part of every conversion's name. Raise it when a conversion writes something else than before.
_LAYOUT = 1
_MANIFEST = "textgen.json"
_HEAD_BYTES = 8 << 20
_SAMPLES = 32
_SAMPLE_BYTES = 64 << 10


def converted(
    source: Path, cache: Path, convert: Convert, progress: Progress, parts: Sequence[Path] = (), needed: int = 0
) -> Path:
    """The folder that `convert` makes of `source`; made now unless a sound one is in the cache.

    Args:
        source: what is converted, a file or a folder. Its content counts, not its place.
        cache: folder for all that can be made again.
        convert: called with `source`, an empty folder to fill and `progress`.
        progress: receives lines for the log.
        parts: the files of a folder whose content counts.
        needed: bytes that the result takes at least; 0 where that is not known.

    Raises ModelSourceError when the cache cannot be written, and whatever `convert` raises.
    """
    root = cache / "textgen-converted"
    folder = root / f"{_safe(source.stem)}-{_identity(parts or [source])}"
    if _is_sound(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{folder.name}.lock", source, progress):
            if not _is_sound(folder):
                _publish(source, folder, convert, progress, needed)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelSourceError(
            f"cannot convert {source} into the cache {root}: {reason} (HUGGINGFACE_HUB_CACHE names another place)"
        ) from error
    return folder


def need_space(folder: Path, needed: int, what: str) -> None:
    """Raise NoSpace unless there is room for `needed` bytes in `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpace(
            f"no space for {what} in {folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free "
            "(HUGGINGFACE_HUB_CACHE names another place)"
        )


def fingerprint(path: Path, *salt: object) -> str:
    """A hash of a file's size, its first 8 MiB and 32 samples of 64 KiB, spread evenly and with the end among them.

    Milliseconds for a file of any size. It tells models apart (they differ everywhere, or in their headers) and finds
    truncation, lost writes and edits of small files; it does not find single flipped bits in large ones.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(repr((size, *salt)).encode())
    stride = max((size - _HEAD_BYTES) // _SAMPLES, _SAMPLE_BYTES)
    with path.open("rb") as file:
        digest.update(file.read(_HEAD_BYTES))
        for end in range(size, _HEAD_BYTES, -stride):
            file.seek(max(end - _SAMPLE_BYTES, _HEAD_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _identity(files: Sequence[Path]) -> str:
    try:
        if len(files) == 1:
            return fingerprint(files[0], _LAYOUT)[:16]
        content = "".join(f"{file.name} {fingerprint(file, _LAYOUT)}\n" for file in sorted(files))
    except OSError as error:
        raise ModelSourceError(f"cannot read {error.filename}: {error.strerror}") from error
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _is_sound(folder: Path) -> bool:
    """Whether `folder` holds a finished conversion whose files are as they were written."""
    try:
        manifest = read_json(folder, _MANIFEST)
        return manifest is not None and all(
            fingerprint(folder / name) == expected for name, expected in manifest["files"].items()
        )
    except (OSError, CheckpointError, KeyError, AttributeError):
        return False


@contextmanager
def _locked(path: Path, source: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file `path`; the kernel lets go of it however this process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that converts {source.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(source: Path, folder: Path, convert: Convert, progress: Progress, needed: int) -> None:
    """Convert beside `folder`, then put the result in its place."""
    partial = folder.parent / f".{folder.name}.partial"
    if folder.exists():
        progress(f"{folder} is damaged: converting {source.name} again")
    shutil.rmtree(partial, ignore_errors=True)
    need_space(folder.parent, needed, f"the converted {source.name}")
    partial.mkdir()
    try:
        convert(source, partial, progress)
        _seal(partial, source)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seal(folder: Path, source: Path) -> None:
    """Write the manifest and wait until everything is on disk."""
    files = {path.name: fingerprint(path) for path in sorted(folder.iterdir())}
    write_json(folder, _MANIFEST, {"source": source.name, "files": files})
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
