"""The Hugging Face hub: files of repositories, in huggingface_hub's own cache. Called by source.py.

That library goes on where a connection broke, keeps whole files over restarts, and checks sizes. Checksums are checked
here, once, for what has just come.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from textgen_server.errors import DownloadDamaged, ModelGated, ModelMissing, ModelSourceError, NoSpace
from textgen_server.weights.local import PICKLES, has_safetensors
from textgen_server.weights.progress import SECONDS_BETWEEN_REPORTS, Progress, report

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_UNWANTED = ["*/*", "consolidated*"]  # other formats' copies of the weights
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASHED_AT_ONCE = 4
# A download that lives writes every few seconds: its connection is given up after ten without a byte.
_IDLE_SECONDS = 60.0

WANTED = ("*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.model", "*.py")
WANTED_OF_ADAPTER = ("adapter_config.json", "adapter_model*.safetensors")
WANTED_OF_TOKENIZER = ("tokenizer*", "config.json", "generation_config.json", "chat_template*")


def cache_folder(cache: str | None) -> Path:
    """`cache`, or where huggingface_hub has its own."""
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser().absolute()


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download_model(repo: str, revision: str | None, cache: Path, progress: Progress) -> Path:
    """The folder of a repository's model, whose name is the commit. PyTorch's .bin files are fetched only where there
    are no safetensors. Raises ModelSourceError, as `download`."""
    folder = download(repo, revision, cache, progress)
    if has_safetensors(folder):
        return folder
    return download(repo, revision, cache, progress, (*WANTED, PICKLES))


def download(repo: str, revision: str | None, cache: Path, progress: Progress, wanted: Sequence[str] = WANTED) -> Path:
    """The folder of a repository's files of the kinds `wanted`; its name is the commit.

    Raises ModelSourceError, one sentence with the remedy, when it cannot be had or what came is damaged.
    """
    if not _HUB_ID.fullmatch(repo):
        raise ModelMissing(f"{repo!r} is neither an existing path nor a hub id such as org/name")
    from huggingface_hub import snapshot_download

    at = f" at {revision}" if revision else ""
    progress(f"looking up {repo}{at} on the Hugging Face hub")
    blobs = cache / f"models--{repo.replace('/', '--')}" / "blobs"
    clear_leftovers(blobs, cache / ".locks" / blobs.parent.name)
    before = _finished(blobs)
    try:
        path = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache,
            allow_patterns=list(wanted),
            ignore_patterns=_UNWANTED,
            tqdm_class=_reporter(repo, progress),
        )
    except Exception as error:  # its HTTP library's errors pass through, and that library changes
        raise _failure(error, repo, revision, cache, wanted) from error
    _verify(repo, [blobs / name for name in _finished(blobs) - before], Path(path))
    return Path(path)


def clear_leftovers(blobs: Path, locks: Path) -> None:
    """Delete what killed downloads left among `blobs`, each about as large as the file it was to be. The library gives
    them a new name every time and never looks at them again.

    What a living download holds a lock for, or has written to lately (not all file systems have locks), stays.
    """
    for path in blobs.glob("*.incomplete"):
        with contextlib.suppress(OSError):  # gone already, or not ours
            idle = time.time() - path.stat().st_mtime
            if idle > _IDLE_SECONDS and _is_free(locks / f"{path.name.partition('.')[0]}.lock"):
                path.unlink()


def _is_free(lock: Path) -> bool:
    if not lock.exists():
        return True
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _finished(blobs: Path) -> set[str]:
    """Names of the large files that are there whole; the hub names them by their sha256."""
    return {path.name for path in blobs.glob("*") if _SHA256.fullmatch(path.name)}


def _verify(repo: str, blobs: list[Path], snapshot: Path) -> None:
    """Compare the sha256 of each file with its name. What is damaged goes, so that the next start fetches it again."""
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as threads:
        damaged = [blob for blob, sound in zip(blobs, threads.map(_is_sound, blobs), strict=True) if not sound]
    names = [path.name for path in snapshot.iterdir() if path.resolve() in {blob.resolve() for blob in damaged}]
    for blob in damaged:
        blob.unlink()
    if damaged:
        raise DownloadDamaged(
            f"{repo}: {', '.join(sorted(names)) or damaged[0].name} arrived damaged: its sha256 is not the hub's; "
            "it was deleted: start again to download it again"
        )


def _is_sound(blob: Path) -> bool:
    with blob.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == blob.name


def _failure(error: Exception, repo: str, revision: str | None, cache: Path, wanted: Sequence[str]) -> ModelSourceError:
    """Why a download failed: one sentence, with the remedy."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        needed, free = _missing_bytes(repo, revision, cache, wanted), shutil.disk_usage(cache).free
        size = f"{needed / 1e9:.2f} GB more" if needed else "more space"
        return NoSpace(
            f"no space left in {cache} for {repo}: {size} needed, {free / 1e9:.2f} GB free; make room (what has come "
            "is kept), or name another place by HUGGINGFACE_HUB_CACHE"
        )
    if isinstance(error, errors.GatedRepoError):
        return ModelGated(
            f"{repo} is gated: accept its terms at {hub}/{repo} and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelMissing(
            f"{repo} has no revision {revision!r} on {hub}: set --revision to one of its branches, tags or commits"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelMissing(
            f"{repo} is not on {hub}, or private: check the name, or set HF_TOKEN (there is no local folder {repo})"
        )
    if isinstance(error, errors.HFValidationError):
        return ModelMissing(f"{repo!r} is neither an existing path nor a hub id such as org/name")
    if constants.HF_HUB_OFFLINE:
        return ModelMissing(
            f"{repo} is not completely in the cache {cache}, and HF_HUB_OFFLINE is set: unset it, or download first"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return ModelSourceError(
            f"{hub} cannot be reached, and {repo} is not completely in the cache {cache}: {_first_line(error)}"
        )
    return ModelSourceError(f"downloading {repo} from {hub} failed: {_first_line(error)}")


def _missing_bytes(repo: str, revision: str | None, cache: Path, wanted: Sequence[str]) -> int:
    """What a download has still to fetch; 0 where the hub does not say."""
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache,
            allow_patterns=list(wanted),
            ignore_patterns=_UNWANTED,
            dry_run=True,
        )
    except Exception:
        return 0
    return sum(file.file_size or 0 for file in files if file.will_download)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _reporter(repo: str, progress: Progress) -> Any:
    """A class for snapshot_download's progress bars that writes lines for the log instead."""
    from huggingface_hub.utils.tqdm import tqdm

    reported = {0}  # bytes received and bytes written have bars of their own, which mostly say the same
    started = time.monotonic()

    class Reporter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            quiet = {"file": io.StringIO(), "disable": False, "mininterval": SECONDS_BETWEEN_REPORTS}
            super().__init__(*args, **(kwargs | quiet))  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            done, total = int(self.n), int(self.total or 0)
            if self.unit == "B" and done not in reported:
                reported.add(done)
                speed = (done - int(self.initial or 0)) / max(time.monotonic() - started, 1e-6)
                progress(report("downloading", repo, done, total, max(speed, 0.0)))

    return Reporter
