import json
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.damage import what_is_wrong

MIB = 1 << 20


def save(folder: Path, files: dict[str, dict[str, torch.Tensor]], index: dict[str, str] | None = None) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def test_one_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(4).bfloat16(),
        "c": torch.arange(6, dtype=torch.int32).reshape(1, 2, 3),
        "scalar": torch.tensor(2.0, dtype=torch.float16),
        "empty": torch.empty(0, 4),
    }
    checkpoint = Checkpoint.open(save(tmp_path, {"model.safetensors": tensors}))

    assert checkpoint.names == tensors.keys()
    for name, tensor in tensors.items():
        assert name in checkpoint
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype
        assert torch.equal(checkpoint.tensor(name), tensor)
    assert "d" not in checkpoint
    assert checkpoint.num_bytes == 3 * 5 * 4 + 4 * 2 + 6 * 4 + 2


@pytest.mark.parametrize(("dim", "start", "length"), [(0, 0, 8), (0, 2, 3), (1, 4, 2), (1, 0, 0), (0, 8, 0)])
def test_a_slice_is_that_part_of_the_tensor(tmp_path: Path, dim: int, start: int, length: int) -> None:
    tensor = torch.randn(8, 6)
    checkpoint = Checkpoint.open(save(tmp_path, {"model.safetensors": {"a": tensor}}))

    assert torch.equal(checkpoint.slice("a", dim, start, length), tensor.narrow(dim, start, length))


@pytest.mark.parametrize(("dim", "start", "length"), [(0, 6, 3), (2, 0, 1), (-1, 0, 1), (0, -1, 2), (1, 3, -1)])
def test_a_slice_beyond_the_tensor_is_refused(tmp_path: Path, dim: int, start: int, length: int) -> None:
    checkpoint = Checkpoint.open(save(tmp_path, {"model.safetensors": {"a": torch.zeros(8, 6)}}))

    with pytest.raises(CheckpointError, match=r"a of shape \[8, 6\] lacks elements"):
        checkpoint.slice("a", dim, start, length)


def resident_mib() -> float:
    """Memory of this process, files that it has mapped and read included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def test_nothing_is_read_before_it_is_used_and_only_what_is_used(tmp_path: Path) -> None:
    rows = 64
    save(tmp_path, {"model.safetensors": {"a": torch.ones(rows, MIB // 4), "b": torch.ones(rows, MIB // 4)}})
    before = resident_mib()
    checkpoint = Checkpoint.open(tmp_path)
    views = [checkpoint.tensor("a"), checkpoint.tensor("b"), checkpoint.slice("b", 1, 0, 8)]
    assert resident_mib() - before < 8

    part = checkpoint.slice("a", 0, 16, 16)
    assert part.sum() == 16 * MIB // 4

    assert 14 < resident_mib() - before < 32
    assert part.data_ptr() == views[0].data_ptr() + 16 * MIB


def test_a_view_outlives_the_checkpoint(tmp_path: Path) -> None:
    view = Checkpoint.open(save(tmp_path, {"model.safetensors": {"a": torch.arange(5)}})).tensor("a")

    assert view.tolist() == [0, 1, 2, 3, 4]


def test_the_index_says_which_files_count(tmp_path: Path) -> None:
    shards = {
        "model-00001-of-00002.safetensors": {"a": torch.zeros(2)},
        "model-00002-of-00002.safetensors": {"b": torch.ones(3), "c": torch.ones(1)},
        "consolidated.safetensors": {"a": torch.full((2,), 9.0)},
    }
    index = {"a": "model-00001-of-00002.safetensors"} | dict.fromkeys("bc", "model-00002-of-00002.safetensors")
    checkpoint = Checkpoint.open(save(tmp_path, shards, index))

    assert checkpoint.names == {"a", "b", "c"}
    assert checkpoint.tensor("a").tolist() == [0, 0]
    assert checkpoint.num_bytes == 4 * 6


def test_without_an_index_all_files_count(tmp_path: Path) -> None:
    save(tmp_path, {"x.safetensors": {"a": torch.zeros(2)}, "y.safetensors": {"b": torch.zeros(2)}})

    assert Checkpoint.open(tmp_path).names == {"a", "b"}


def test_two_files_with_the_same_tensor_are_named(tmp_path: Path) -> None:
    save(tmp_path, {"x.safetensors": {"a": torch.zeros(2)}, "y.safetensors": {"a": torch.zeros(2)}})

    with pytest.raises(CheckpointError, match=r"both x\.safetensors and y\.safetensors hold the tensor a"):
        Checkpoint.open(tmp_path)


def test_a_missing_tensor_is_named_with_the_files_that_lack_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save(tmp_path, {"model.safetensors": {"a": torch.zeros(2)}}))

    with pytest.raises(CheckpointError, match=r"has no tensor lm_head\.weight \(looked in model\.safetensors\)"):
        checkpoint.tensor("lm_head.weight")


def test_an_index_that_names_an_absent_shard_is_explained(tmp_path: Path) -> None:
    save(tmp_path, {"1.safetensors": {"a": torch.zeros(2)}}, {"a": "1.safetensors", "b": "2.safetensors"})

    with pytest.raises(CheckpointError, match=r"index\.json lists 2\.safetensors, which is missing"):
        Checkpoint.open(tmp_path)


def test_an_index_that_places_a_tensor_wrongly_is_explained(tmp_path: Path) -> None:
    save(tmp_path, {"1.safetensors": {"a": torch.zeros(2)}}, {"a": "1.safetensors", "b": "1.safetensors"})

    with pytest.raises(CheckpointError, match=r"lists the tensor b in 1\.safetensors, which lacks it"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_a_malformed_index_is_explained(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)

    with pytest.raises(CheckpointError, match="weight_map must map names of tensors to names of files"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 20, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, length: int) -> None:
    file = save(tmp_path, {"model.safetensors": {"a": torch.zeros(100)}}) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])

    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or truncated \(\d+ bytes\): \S+"):
        Checkpoint.open(tmp_path)


def test_numbers_of_an_unknown_type_are_named(tmp_path: Path) -> None:
    file = save(tmp_path, {"model.safetensors": {"a": torch.zeros(100)}}) / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"F99"'))

    with pytest.raises(CheckpointError, match=re.escape(f"{file}: a has numbers of type F99, which is not known")):
        Checkpoint.open(tmp_path)


def test_a_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")

    with pytest.raises(CheckpointError, match="only a Git LFS pointer: fetch the weights with git lfs pull"):
        Checkpoint.open(tmp_path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()

    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: Is a directory"):
        Checkpoint.open(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \*\.safetensors files"):
        Checkpoint.open(tmp_path)


def test_smollm2_has_its_parameters(smollm2_folder: Path) -> None:
    checkpoint = Checkpoint.open(smollm2_folder)

    assert checkpoint.num_bytes == 134_515_008 * 4
    assert checkpoint.shape("model.embed_tokens.weight") == (49152, 576)
    assert "lm_head.weight" not in checkpoint


def test_a_file_that_is_larger_than_memory_is_not_called_damaged(tmp_path: Path) -> None:
    """The kernel refuses to map one that could never be held."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(10))
    error = RuntimeError(f"unable to mmap 10 bytes from file <{path}>: Cannot allocate memory (12)")
    assert what_is_wrong(path, error).endswith("cannot be mapped, because it is larger than this machine's memory")
