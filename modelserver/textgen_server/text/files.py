"""The JSON files of a model folder that the text side reads. Called by tokenizer.py and chat_template.py."""

from pathlib import Path
from typing import Any

from textgen_server.errors import CheckpointError
from textgen_server.weights import config_files


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, or {} when there is no such file. Raises CheckpointError when it is not a JSON object."""
    return (config_files.read_json(path.parent, path.name) or {}) if path.is_file() else {}


def tokenizer_config(folder: Path, override: str | None) -> dict[str, Any]:
    """tokenizer_config.json of the model, or the file that `--tokenizer-config-path` puts in its place.

    Raises:
        CheckpointError: the override does not exist, or the file is no JSON object.
    """
    if override is None:
        return read_json(folder / "tokenizer_config.json")
    if not Path(override).is_file():
        raise CheckpointError(f"--tokenizer-config-path: there is no file {override}")
    return read_json(Path(override))


def token_text(config: dict[str, Any], name: str) -> str | None:
    """The text of a named token ("bos_token"), which tokenizer_config.json gives as a string or as an object."""
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
