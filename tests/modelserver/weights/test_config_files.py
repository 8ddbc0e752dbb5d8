from pathlib import Path

import pytest

from textgen_server.errors import CheckpointError
from textgen_server.weights.config_files import read_json, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path, "config.json", {"model_type": "llama", "name": "Größe"})

    assert read_json(tmp_path, "config.json") == {"model_type": "llama", "name": "Größe"}


def test_an_absent_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path, "config.json") is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": ', "not valid JSON"),
        (b"[1]", "must hold a JSON object, not list"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=complaint) as caught:
        read_json(tmp_path, "config.json")

    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()

    with pytest.raises(CheckpointError, match="cannot read"):
        read_json(tmp_path, "config.json")
