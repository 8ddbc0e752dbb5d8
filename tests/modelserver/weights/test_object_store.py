"""Folders in buckets, with fsspec's file system in memory in the place of a bucket."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from textgen_server.errors import ModelSourceError
from textgen_server.weights import hub, object_store
from textgen_server.weights.object_store import download

FILES = {
    "config.json": b"{}",
    "model-1.safetensors": b"1" * 1000,
    "model-2.safetensors": b"2" * 500,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"not needed",
    "consolidated.safetensors": b"a second copy",
    "README.md": b"read me",
    "onnx/model.onnx": b"onnx",
}
ADDRESS = "memory://bucket/my-model"


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    bucket = fsspec.filesystem("memory")
    for name, content in FILES.items():
        bucket.pipe_file(f"/bucket/my-model/{name}", content)
    yield bucket
    bucket.rm("/bucket", recursive=True)


def ignore(line: str) -> None:
    pass


def test_a_folder_arrives_without_what_is_not_needed(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    lines: list[str] = []

    folder = download(ADDRESS, tmp_path, lines.append)

    wanted = {"config.json", "model-1.safetensors", "model-2.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == wanted | {"textgen.json"}
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    assert lines[-1].startswith(f"downloading {ADDRESS}: 0.00 of 0.00 GB, ")


def test_it_is_fetched_once_and_anew_when_it_changes(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    first = download(ADDRESS, tmp_path, ignore)
    (first / "mark").touch()

    assert download(ADDRESS, tmp_path, ignore) == first
    assert (first / "mark").exists()
    bucket.pipe_file("/bucket/my-model/model-2.safetensors", b"3" * 501)
    second = download(ADDRESS, tmp_path, ignore)
    assert (second / "model-2.safetensors").read_bytes() == b"3" * 501


def test_an_interrupted_download_goes_on_where_it_stopped(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(object_store, "_check", refuse)
        with pytest.raises(ModelSourceError, match=f"downloading {ADDRESS} failed: the cable was cut"):
            download(ADDRESS, tmp_path, ignore)
    partial = next(tmp_path.rglob(".*.partial"))
    # What is there is not fetched again: this mark stays.
    (partial / "model-1.safetensors").write_bytes(b"x" * 700)

    folder = download(ADDRESS, tmp_path, ignore)

    assert (folder / "model-1.safetensors").read_bytes() == b"x" * 700 + b"1" * 300


def refuse(*args: object) -> None:
    raise ConnectionError("the cable was cut")


def test_what_arrives_damaged_is_named_and_deleted(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bucket.ls("/bucket/my-model", detail=True)
    for entry in listed:
        content = b"something else" if entry["name"].endswith("2.safetensors") else FILES.get(Path(entry["name"]).name)
        if content is not None:
            entry["md5Hash"] = base64.b64encode(hashlib.md5(content).digest()).decode()
    monkeypatch.setattr(type(bucket), "ls", lambda self, path, detail: listed)

    with pytest.raises(ModelSourceError, match=r"my-model/model-2\.safetensors arrived damaged: its MD5 is not"):
        download(ADDRESS, tmp_path, ignore)
    assert not list(tmp_path.rglob("model-2.safetensors"))


def test_offline_the_last_copy_serves_without_a_packet(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "is_offline", lambda: True)
    with pytest.raises(ModelSourceError, match=r"is not in the cache .* HF_HUB_OFFLINE is set: download it first"):
        download(ADDRESS, tmp_path, ignore)
    with monkeypatch.context() as online:
        online.setattr(hub, "is_offline", lambda: False)
        folder = download(ADDRESS, tmp_path, ignore)

    monkeypatch.setattr(object_store, "_open", refuse)
    assert download(ADDRESS, tmp_path, ignore) == folder


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("memory://bucket/no-such-model", "memory://bucket/no-such-model does not exist: check bucket and path"),
        ("memory://bucket/my-model/onnx", "holds no files of a model: check the address"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_a_wrong_address_is_explained(address: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=complaint):
        download(address, tmp_path, ignore)


def test_a_full_disk_says_how_much_is_needed(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = object_store.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(object_store.shutil, "disk_usage", lambda path: usage)

    with pytest.raises(ModelSourceError, match=r"no space for memory://bucket/my-model in .*GB are needed"):
        download(ADDRESS, tmp_path, ignore)


def test_the_bucket_schemes_are_known_and_their_libraries_are_extras() -> None:
    assert object_store.is_address("s3://bucket/model")
    assert object_store.is_address("gs://bucket/model")
    assert not object_store.is_address("memory://bucket/model")
    assert not object_store.is_address("s3/model")
