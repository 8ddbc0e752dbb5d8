"""Finding a model: in an installed package, a .gguf file, a folder, a repository on the Hugging Face hub, a bucket.

Called by the launcher, once, before any other process starts, and by whoever needs only the tokenizer's files. Imports
nothing heavy; what one kind of source needs is imported when such a source is asked for.
"""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

from textgen_server.errors import CheckpointError, ModelMissing, ModelSourceError, StartupError
from textgen_server.settings import ServerOptions
from textgen_server.weights import hub, local, object_store
from textgen_server.weights.config_files import read_json
from textgen_server.weights.progress import Progress, Report

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class ModelFolder:
    """A local folder with config.json, safetensors and the tokenizer's files.

    Attributes:
        path: where it is.
        name: the hub's id, or the name of the folder or file that was asked for.
        sha: commit of a hub repository, else "".
        merge: folder of a LoRA adapter that is to be added to the weights as they load; None for none.
    """

    path: Path
    name: str
    sha: str
    merge: Path | None = None


def locate(model_id: str, revision: str | None, cache: str | None, progress: Progress) -> ModelFolder:
    """The folder of the model that `model_id` names, downloaded or converted first where that is needed.

    Args:
        model_id: `package://NAME`, a .gguf file, a local folder, a hub id (`org/name`, `name`, `hf://org/name`), or a
            folder in a bucket (`s3://bucket/path`, `gs://bucket/path`). What exists on this machine comes first, and
            what looks like a path is never asked of the hub. A folder or repository with nothing but a LoRA adapter
            stands for its base model with the adapter merged.
        revision: branch, tag or commit; for hub ids only.
        cache: folder for downloaded and converted files. Default: huggingface_hub's.
        progress: receives lines for the log.

    Raises ModelSourceError when the model cannot be found or fetched, CheckpointError when its files are incomplete,
    damaged or not understood.
    """
    try:
        return _found(model_id, revision, hub.cache_folder(cache), progress)
    except OSError as error:
        raise ModelSourceError(f"cannot read {error.filename or model_id}: {error.strerror}") from error


def locate_all(options: ServerOptions, progress: Progress) -> tuple[ModelFolder, dict[str, Path]]:
    """All that a server with these options reads: its model, of which --mock-engine needs the tokenizer and config.json
    alone, and its adapters by name. Errors as in `locate`."""
    what = options.model_id, options.revision, options.huggingface_hub_cache
    if options.mock_engine:
        model = ModelFolder(locate_tokenizer(*what, progress), options.model_id, "")
    else:
        model = locate(*what, progress)
    progress(_located(model))
    return model, _locate_adapters(options, progress)


def _located(model: ModelFolder) -> Report:
    size = sum(path.stat().st_size for path in model.path.glob("*.safetensors") if path.is_file())
    at = f" at commit {model.sha}" if model.sha else ""
    fields = {"stage": "located", "what": model.name, "revision": model.sha, "done_bytes": size, "total_bytes": size}
    return Report(f"{model.name}{at}: {size / 1e9:.2f} GB in {model.path}", fields)


def locate_tokenizer(model_id: str, revision: str | None, cache: str | None, progress: Progress) -> Path:
    """The folder of a model's tokenizer. Weights need not be there, and are not fetched from the hub. Arguments and
    errors as in `locate`."""
    path = _absolute(model_id)
    if (path / "tokenizer.json").is_file():
        return path
    repo = model_id.removeprefix("hf://")
    if path.exists() or "://" in repo or _looks_like_path(repo):
        return locate(model_id, revision, cache, progress).path
    return hub.download(repo, revision, hub.cache_folder(cache), progress, hub.WANTED_OF_TOKENIZER)


def _locate_adapters(options: ServerOptions, progress: Progress) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for entry in options.lora_adapters:
        name, given, source = entry.partition("=")
        if not given:
            name, source = entry.partition("@")[0], entry
        if not name or name in folders or name == options.model_name:
            raise StartupError(f"--lora-adapters {entry}: each adapter needs a name of its own, as in NAME=FOLDER")
        folders[name] = locate_adapter(source, options.huggingface_hub_cache, progress)
    return folders


def locate_adapter(source: str, cache: str | None, progress: Progress) -> Path:
    """The folder of a LoRA adapter: a local one, or that of a hub id, ID@REVISION, or a bucket's. Errors as in
    `locate`."""
    path = _absolute(source)
    if object_store.is_address(source):
        path = object_store.download(source, hub.cache_folder(cache), progress)
    elif not path.exists():
        repo, _, revision = source.removeprefix("hf://").partition("@")
        if _looks_like_path(repo):
            raise ModelMissing(f"no such folder: {path} (adapter {source!r})")
        path = hub.download(repo, revision or None, hub.cache_folder(cache), progress, hub.WANTED_OF_ADAPTER)
    if not (path / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{path} has no {ADAPTER_CONFIG}, so it is not a LoRA adapter")
    return path


def _absolute(path: str) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - Path's fails for unknown users


def _found(model_id: str, revision: str | None, cache: Path, progress: Progress) -> ModelFolder:
    scheme, separator, rest = model_id.partition("://")
    if not separator:
        path = _absolute(model_id)
        if path.exists():
            return _from_path(path, cache, progress)
        if _looks_like_path(model_id):
            raise ModelMissing(f"no such folder or file: {path} (model_id {model_id!r})")
        return _from_hub(model_id, revision, cache, progress)
    if scheme == "package":
        return _from_package(rest, cache, progress)
    if scheme == "hf":
        return _from_hub(rest, revision, cache, progress)
    if object_store.is_address(model_id):
        folder = object_store.download(model_id, cache, progress)
        return _from_folder(folder, model_id.rstrip("/").rpartition("/")[2], "", cache, progress)
    raise ModelSourceError(
        f"{model_id}: {scheme}:// is not supported; package://, hf://, s3:// and gs:// are, and paths"
    )


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1 or model_id.lower().endswith(".gguf")


def _from_path(path: Path, cache: Path, progress: Progress) -> ModelFolder:
    if path.is_dir():
        return _from_folder(path, path.name, "", cache, progress)
    if path.suffix.lower() == ".gguf":
        return ModelFolder(local.from_gguf(path, cache, progress), path.stem, "")
    raise ModelMissing(f"{path} is neither a folder nor a .gguf file")


def _from_folder(folder: Path, name: str, sha: str, cache: Path, progress: Progress) -> ModelFolder:
    """A folder with a checkpoint as on the hub, or, failing that, with an adapter, .bin files or one .gguf file."""
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        return _from_adapter(folder, name, sha, cache, progress)
    path, name = local.usable(folder, name, cache, progress)
    return ModelFolder(path, name, sha)


def _from_adapter(folder: Path, name: str, sha: str, cache: Path, progress: Progress) -> ModelFolder:
    """The base of the adapter in `folder`, as its config names it: a path, also beside the adapter, or a hub id."""
    config = read_json(folder, ADAPTER_CONFIG) or {}
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path must name the adapter's base model")
    beside = next((path for path in (folder / base, folder.parent / base) if path.exists()), None)
    progress(f"{name} is an adapter: its base model is {beside or base}")
    found = _found(str(beside or base), revision if isinstance(revision, str) else None, cache, progress)
    if found.merge is not None:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path {base} is an adapter, not a model")
    return replace(found, name=name, sha=sha, merge=folder)


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
        raise ModelMissing(f"package://{name}: no package {module} is installed (pip install {name})")
    return _from_folder(Path(next(iter(folders))), module, "", cache, progress)


def _from_hub(repo: str, revision: str | None, cache: Path, progress: Progress) -> ModelFolder:
    folder = hub.download_model(repo, revision, cache, progress)
    try:
        return _from_folder(folder, repo, folder.name, cache, progress)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), repo)) from error
