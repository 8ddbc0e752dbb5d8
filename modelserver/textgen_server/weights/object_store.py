"""Folders in buckets (S3, Google Cloud Storage, and what else speaks their protocols), by fsspec. Called by source.py.

<cache>/textgen-buckets/
    NAME-HASH/              of one address
        VERSION/            the files as they were listed, whole, and the list, textgen.json
        .VERSION.partial/   what has come so far; the next download goes on there
"""

import base64
import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from textgen_server.errors import DownloadDamaged, ModelGated, ModelMissing, ModelSourceError, NoSpace
from textgen_server.weights import hub
from textgen_server.weights.config_files import read_json, write_json
from textgen_server.weights.conversion import need_space
from textgen_server.weights.local import PICKLES
from textgen_server.weights.progress import Progress, Transfer

# Scheme -> the extra of this project that brings fsspec's library for it.
_EXTRAS: Mapping[str, str] = {"s3": "s3", "gs": "gcs"}
_WANTED = (*hub.WANTED, "*.gguf")
_FILES_AT_ONCE = 4
_CHUNK = 8 << 20
_MANIFEST = "textgen.json"


@dataclass(frozen=True)
class RemoteFile:
    """A file as its bucket lists it. `md5` is "" where the bucket does not say."""

    name: str
    path: str
    size: int
    version: str
    md5: str


def is_address(model_id: str) -> bool:
    """Whether this module knows the scheme."""
    scheme, separator, _ = model_id.partition("://")
    return bool(separator) and scheme in _EXTRAS


def download(address: str, cache: Path, progress: Progress) -> Path:
    """The local copy of the folder at `address`, downloaded unless that version of it is there.

    Raises ModelSourceError when it cannot be reached, does not exist, or what comes is damaged.
    """
    folder = cache / "textgen-buckets" / _place(address)
    if hub.is_offline():
        return _latest(folder, address)
    progress(f"looking up {address}")
    try:
        filesystem, root = _open(address)
        files = _wanted(_listed(filesystem, root))
        if not files:
            raise ModelMissing(f"{address} holds no files of a model: check the address, which names a folder")
        return _fetched(filesystem, address, files, folder, progress)
    except ModelSourceError:
        raise
    except Exception as error:  # each store's library has errors of its own
        raise _failure(error, address, folder) from error


def _place(address: str) -> str:
    name = re.sub(r"[^\w.-]", "_", address.rstrip("/").rpartition("/")[2])
    return f"{name}-{hashlib.sha256(address.rstrip('/').encode()).hexdigest()[:16]}"


def _latest(folder: Path, address: str) -> Path:
    whole = [path.parent for path in folder.glob(f"*/{_MANIFEST}") if not path.parent.name.startswith(".")]
    if not whole:
        raise ModelMissing(f"{address} is not in the cache {folder}, and HF_HUB_OFFLINE is set: download it first")
    return max(whole, key=lambda path: path.stat().st_mtime)


def _open(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        filesystem, root = url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        scheme = address.partition("://")[0]
        raise ModelSourceError(
            f"{scheme}:// needs a library that is not installed ({error}): pip install 'textgen[{_EXTRAS[scheme]}]'"
        ) from None
    return filesystem, root


def _listed(filesystem: Any, root: str) -> list[RemoteFile]:
    entries = filesystem.ls(root, detail=True)
    return [_described(entry) for entry in entries if entry["type"] == "file" and entry["name"].strip("/") != root]


def _described(entry: Mapping[str, Any]) -> RemoteFile:
    etag = str(entry.get("ETag") or entry.get("etag") or "").strip('"')
    version = etag or str(entry.get("LastModified") or entry.get("updated") or entry.get("mtime") or "")
    return RemoteFile(entry["name"].rpartition("/")[2], entry["name"], int(entry["size"]), version, _md5(entry))


def _md5(entry: Mapping[str, Any]) -> str:
    """Google's field. S3's ETag is the MD5 of some objects, but a listing does not tell of which."""
    return base64.b64decode(str(entry.get("md5Hash") or "")).hex()


def _wanted(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """What a model needs; .bin files only where there is nothing better."""
    listed = list(files)
    wanted = [file for file in listed if _is_any(file.name, _WANTED)]
    if any(file.name.endswith((".safetensors", ".gguf")) for file in wanted):
        return wanted
    return wanted + [file for file in listed if fnmatch(file.name, PICKLES)]


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns) and not name.startswith("consolidated")


def _fetched(filesystem: Any, address: str, files: list[RemoteFile], folder: Path, progress: Progress) -> Path:
    content = [asdict(file) for file in sorted(files, key=lambda file: file.name)]
    version = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    whole, partial = folder / version, folder / f".{version}.partial"
    if read_json(whole, _MANIFEST) is not None:
        return whole
    partial.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in files)
    come = sum(path.stat().st_size for path in partial.iterdir())
    need_space(folder, total - come, address)
    transfer = Transfer("downloading", address, total, progress)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        for _ in threads.map(lambda file: _fetch(filesystem, file, partial / file.name, transfer), files):
            pass
    transfer.report()
    write_json(partial, _MANIFEST, {"address": address, "files": content})
    partial.rename(whole)
    return whole


def _fetch(filesystem: Any, file: RemoteFile, target: Path, transfer: Transfer) -> None:
    """Write one file, from where an earlier download stopped; then check it."""
    there = target.stat().st_size if target.exists() else 0
    if there > file.size:
        target.unlink()
        there = 0
    transfer.add(there)
    with (
        filesystem.open(file.path, "rb", block_size=_CHUNK, cache_type="readahead") as source,
        target.open("ab") as out,
    ):
        source.seek(there)
        while there < file.size and (chunk := source.read(min(_CHUNK, file.size - there))):
            out.write(chunk)
            there += len(chunk)
            transfer.add(len(chunk))
    _check(file, target)


def _check(file: RemoteFile, target: Path) -> None:
    size = target.stat().st_size
    if size != file.size:
        raise ModelSourceError(f"{file.path} ended after {size} of {file.size} bytes: start again to fetch the rest")
    with target.open("rb") as content:
        if file.md5 and hashlib.file_digest(content, "md5").hexdigest() != file.md5:
            target.unlink()
            raise DownloadDamaged(f"{file.path} arrived damaged: its MD5 is not the bucket's; start again")


def _failure(error: Exception, address: str, folder: Path) -> ModelSourceError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder).free
        return NoSpace(f"no space left in {folder} for {address}: {free / 1e9:.2f} GB are free")
    if isinstance(error, FileNotFoundError):
        return ModelMissing(f"{address} does not exist: check bucket and path")
    if isinstance(error, PermissionError):
        return ModelGated(f"{address} may not be read with these credentials: {_first_line(error)}")
    return ModelSourceError(f"downloading {address} failed: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
