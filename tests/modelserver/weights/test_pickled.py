"""PyTorch's .bin checkpoints: converted once, by a process of its own, and only tensors are ever read."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from textgen_server.errors import CheckpointError, ModelSourceError
from textgen_server.weights import conversion
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.source import locate


def ignore(line: str) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"a": 1}')
    return folder


def convert(folder: Path, progress: Callable[[str], None] = ignore) -> Path:
    return locate(str(folder), None, str(folder.parent / "cache"), progress).path


@pytest.mark.parametrize("zipped", [True, False])
def test_every_value_arrives_tied_sliced_and_transposed_ones_too(folder: Path, zipped: bool) -> None:
    base = torch.randn(6, 4).to(torch.bfloat16)
    tensors = {"whole": base, "tied": base, "slice": base[2:4], "turned": base.t(), "ids": torch.arange(3)}
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    checkpoint = Checkpoint.open(convert(folder))

    assert checkpoint.names == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.tensor(name), tensor)


def test_it_is_converted_once_beside_a_folder_that_cannot_be_written(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "pytorch_model.bin")
    before = sorted(folder.iterdir())
    folder.chmod(0o555)
    lines: list[str] = []

    first = convert(folder, lines.append)
    second = convert(folder, lines.append)

    assert first == second
    assert sorted(folder.iterdir()) == before
    assert (first / "tokenizer.json").read_text() == '{"a": 1}'
    assert [line.split()[0] for line in lines] == ["converting", "converting"]
    assert " GB, " in lines[1]


def test_the_files_of_an_index_are_all_read(folder: Path) -> None:
    for number in (1, 2):
        torch.save({f"t{number}": torch.full((2,), number)}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    file_of = {f"t{number}": f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": file_of}))

    target = convert(folder)

    assert load_file(target / "model-00002-of-00002.safetensors")["t2"].tolist() == [2, 2]
    assert Checkpoint.open(target).names == {"t1", "t2"}


def test_a_changed_file_is_converted_again(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "pytorch_model.bin")
    first = convert(folder)
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model.bin")

    assert convert(folder) != first


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def evil(path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Evil(path.parent / "proof")}, path)


def evil_without_a_zip(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(path.parent / "proof")))


def truncated(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (evil, "holds more than tensors, and reading it could run code"),
        (evil_without_a_zip, r"holds more than tensors|is damaged"),
        (truncated, "is damaged or truncated"),
        (lambda path: path.write_bytes(b""), r"is damaged or truncated \(0 bytes\): it is empty"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "only a Git LFS pointer"),
        (lambda path: path.write_bytes(b"\x00nonsense" * 99), "is damaged"),
        (lambda path: torch.save({"a": torch.zeros(2), "epoch": 3}, path), "must hold named tensors and nothing else"),
        (lambda path: torch.save([torch.zeros(2)], path), "must hold named tensors and nothing else"),
    ],
)
def test_what_is_not_just_tensors_is_refused_and_leaves_nothing(
    folder: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(folder / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match=rf"^\S+/model/pytorch_model\.bin .*({complaint})"):
        convert(folder)
    assert not (folder / "proof").exists()
    assert [path for path in (folder.parent / "cache").rglob("*") if path.is_dir()] == [
        folder.parent / "cache" / "textgen-converted"
    ]


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-2.bin"}}')

    with pytest.raises(CheckpointError, match=r"lists pytorch_model-2\.bin, which is missing"):
        convert(folder)


def test_a_disk_that_is_too_small_says_how_much_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(3_000_000)}, folder / "pytorch_model.bin")
    usage = conversion.shutil.disk_usage(folder)._replace(free=2_000_000)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage)

    with pytest.raises(ModelSourceError, match=r"no space for .*: 0\.01 GB are needed and 0\.00 GB are free"):
        convert(folder)
