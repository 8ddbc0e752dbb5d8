"""Finding a model: in an installed package, in a .gguf file, in a local folder, or on the Hugging Face hub.

Called by the launcher, once, before any other process starts, and by whoever needs only the tokenizer's files. Imports
nothing heavy; what one kind of source needs is imported when such a source is asked for.
"""

import importlib.util
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen_server.errors import CheckpointError, ModelSourceError
from textgen_server.weights.conversion import converted

Progress = Callable[[str], None]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.model"]
_WANTED_OF_ADAPTER = ["adapter_config.json", "adapter_model*.safetensors"]
_WANTED_OF_TOKENIZER = ["tokenizer*", "config.json", "generation_config.json"]
_UNWANTED = ["*/*", "consolidated*"]  # other formats' copies of the weights
_SECONDS_BETWEEN_REPORTS = 5.0


@dataclass(frozen=True)
class ModelFolder:
    """A local folder with config.json, safetensors and the tokenizer's files.

    Attributes:
        path: where it is.
        name: the hub's id, or the name of the folder or file that was asked for.
        sha: commit of a hub repository, else "".
    """

    path: Path
    name: str
    sha: str


def locate(model_id: str, revision: str | None, cache: str | None, progress: Progress) -> ModelFolder:
    """The folder of the model that `model_id` names, downloaded or converted first where that is needed.

    Args:
        model_id: `package://NAME`, a .gguf file, a local folder, or a hub id (`org/name`, `name`, `hf://org/name`).
            What exists on this machine comes first, and what looks like a path is never asked of the hub.
        revision: branch, tag or commit; for hub ids only.
        cache: folder for downloaded and converted files. Default: huggingface_hub's.
        progress: receives lines for the log.

    Raises ModelSourceError when the model cannot be found or fetched, CheckpointError when its files are incomplete,
    damaged or not understood.
    """
    try:
        return _found(model_id, revision, _cache(cache), progress)
    except OSError as error:
        raise ModelSourceError(f"cannot read {error.filename or model_id}: {error.strerror}") from error


def locate_tokenizer(model_id: str, revision: str | None, cache: str | None, progress: Progress) -> Path:
    """The folder of a model's tokenizer. Weights need not be there, and are not fetched from the hub. Arguments and
    errors as in `locate`."""
    path = Path(os.path.expanduser(model_id)).absolute()  # noqa: PTH111 - as in _found
    if (path / "tokenizer.json").is_file():
        return path
    repo = model_id.removeprefix("hf://")
    if path.exists() or "://" in repo or _looks_like_path(repo):
        return locate(model_id, revision, cache, progress).path
    return _from_hub(repo, revision, _cache(cache), progress, _WANTED_OF_TOKENIZER).path


def locate_adapter(source: str, cache: str | None, progress: Progress) -> Path:
    """The folder of a LoRA adapter: a local one, or that of a hub id, or ID@REVISION. Errors as in `locate`."""
    path = Path(os.path.expanduser(source)).absolute()  # noqa: PTH111 - as in _found
    if not path.exists():
        repo, _, revision = source.removeprefix("hf://").partition("@")
        if _looks_like_path(repo):
            raise ModelSourceError(f"no such folder: {path} (adapter {source!r})")
        path = _from_hub(repo, revision or None, _cache(cache), progress, _WANTED_OF_ADAPTER).path
    if not (path / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} has no adapter_config.json, so it is not a LoRA adapter")
    return path


def _found(model_id: str, revision: str | None, cache: Path, progress: Progress) -> ModelFolder:
    scheme, separator, rest = model_id.partition("://")
    if not separator:
        path = Path(os.path.expanduser(model_id)).absolute()  # noqa: PTH111 - Path's fails for unknown users
        if path.exists():
            return _from_path(path, cache, progress)
        if _looks_like_path(model_id):
            raise ModelSourceError(f"no such folder or file: {path} (model_id {model_id!r})")
        return _from_hub(model_id, revision, cache, progress)
    if scheme == "package":
        return _from_package(rest, cache, progress)
    if scheme == "hf":
        return _from_hub(rest, revision, cache, progress)
    raise ModelSourceError(f"{model_id}: {scheme}:// is not supported yet (package:// and hf:// are, and paths)")


def _cache(cache: str | None) -> Path:
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser().absolute()


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1 or model_id.lower().endswith(".gguf")


def _from_path(path: Path, cache: Path, progress: Progress) -> ModelFolder:
    if path.is_dir():
        return _from_folder(path, path.name, cache, progress)
    if path.suffix.lower() == ".gguf":
        return _from_gguf(path, cache, progress)
    raise ModelSourceError(f"{path} is neither a folder nor a .gguf file")


def _from_folder(folder: Path, name: str, cache: Path, progress: Progress) -> ModelFolder:
    """A folder with a checkpoint as on the hub, or, failing that, with one .gguf file."""
    if not _lacking(folder):
        return ModelFolder(folder, name, "")
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _from_gguf(ggufs[0], cache, progress)
    if ggufs:
        raise CheckpointError(f"{folder} holds {len(ggufs)} .gguf files: give the path of one, such as {ggufs[0]}")
    raise CheckpointError(_incomplete(folder))


def _lacking(folder: Path) -> list[str]:
    """What a checkpoint needs and `folder` does not have."""
    needed = {"config.json": (folder / "config.json").is_file(), "*.safetensors": any(folder.glob("*.safetensors"))}
    return [what for what, there in needed.items() if not there]


def _incomplete(folder: Path) -> str:
    there = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
    return f"{folder} is not a model folder: it has no {' and no '.join(_lacking(folder))}; it holds {shown}"


def _from_gguf(file: Path, cache: Path, progress: Progress) -> ModelFolder:
    return ModelFolder(converted(file, cache, _convert_gguf, progress), file.stem, "")


def _convert_gguf(file: Path, folder: Path, progress: Progress) -> None:
    from textgen_server.weights.gguf import convert

    started = time.monotonic()
    progress(f"converting {file} to safetensors, once")
    convert(file, folder, progress)
    size = (folder / "model.safetensors").stat().st_size
    progress(f"converted {file.name}: {size / 1e9:.2f} GB in {time.monotonic() - started:.1f} s")


def _from_package(name: str, cache: Path, progress: Progress) -> ModelFolder:
    """Weights inside an installed Python package, which is found but not imported."""
    module = name.replace("-", "_")
    if not module.isidentifier():
        raise ModelSourceError(f"package://{name}: {name!r} is not the name of a top-level Python package")
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module that is loaded already, but not from a file
        spec = None
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ModelSourceError(f"package://{name}: no package {module} is installed (pip install {name})")
    return _from_folder(Path(next(iter(folders))), module, cache, progress)


def _from_hub(
    repo: str, revision: str | None, cache: Path, progress: Progress, wanted: list[str] = _WANTED
) -> ModelFolder:
    if not _HUB_ID.fullmatch(repo):
        raise ModelSourceError(f"{repo!r} is neither an existing path nor a hub id such as org/name")
    from huggingface_hub import snapshot_download

    at = f" at {revision}" if revision else ""
    progress(f"looking up {repo}{at} on the Hugging Face hub")
    try:
        path = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache,
            allow_patterns=wanted,
            ignore_patterns=_UNWANTED,
            tqdm_class=_reporter(repo, progress),
        )
    except Exception as error:  # its HTTP library's errors pass through, and that library changes
        raise ModelSourceError(_why_not(error, repo, revision, cache)) from error
    folder = Path(path)
    if wanted is _WANTED and _lacking(folder):
        raise CheckpointError(_incomplete(folder).replace(str(folder), repo, 1))
    return ModelFolder(folder, repo, folder.name)


def _why_not(error: Exception, repo: str, revision: str | None, cache: Path) -> str:
    """One sentence about a failed download, with the remedy."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms at {hub}/{repo} and set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r} on {hub}: set --revision to one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo} is not on {hub}, or private: check the name, or set HF_TOKEN (there is no local folder {repo})"
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is neither an existing path nor a hub id such as org/name"
    if constants.HF_HUB_OFFLINE:
        return f"{repo} is not completely in the cache {cache}, and HF_HUB_OFFLINE is set: unset it, or download first"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{hub} cannot be reached, and {repo} is not completely in the cache {cache}: {_first_line(error)}"
    return f"downloading {repo} from {hub} failed: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _reporter(repo: str, progress: Progress) -> Any:
    """A class for snapshot_download's progress bars that writes lines for the log instead."""
    from huggingface_hub.utils.tqdm import tqdm

    reported = {""}  # bytes received and bytes written have bars of their own, which mostly say the same

    class Reporter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            quiet = {"file": io.StringIO(), "disable": False, "mininterval": _SECONDS_BETWEEN_REPORTS}
            super().__init__(*args, **(kwargs | quiet))  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            line = f"downloading {repo}: {self.n / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB"
            if self.unit == "B" and self.n and line not in reported:
                reported.add(line)
                progress(line)

    return Reporter
