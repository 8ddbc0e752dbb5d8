"""Reading and writing the small JSON files of a model folder (config.json, tokenizer_config.json, ...)."""

import json
from pathlib import Path
from typing import Any

from textgen_server.errors import CheckpointError


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """The object in `folder/name`, or None when there is no such file.

    Raises CheckpointError when the file cannot be read, is not JSON, or holds something other than an object.
    """
    path = folder / name
    text = read_text(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    except RecursionError:
        raise CheckpointError(f"{path} is not a model's file: its brackets are nested too deeply") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def read_text(path: Path) -> str | None:
    """A file's text, None when there is no such file. Raises CheckpointError when it cannot be read, or is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not text in UTF-8: {error}") from error


def write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write `content` to `folder/name`, readable by people."""
    (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
