"""What the loader makes of parts of a checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part
from textgen_server.weights.progress import Transfer
from textgen_server.weights.transport import fill, pieces

STORED = {
    "a": torch.arange(24, dtype=torch.bfloat16).view(6, 4),
    "b": torch.arange(12).view(3, 4).half(),
    "c": torch.ones(2, 5),
    "n": torch.arange(7.0),
}
CPU = torch.device("cpu")
ROWS = [Part("a", 0, 1, 3), Part("b", 0, 0, 2)]
JOINED = torch.cat([STORED["a"][1:4].float(), STORED["b"][:2].float()])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    save_file(STORED, tmp_path / "model.safetensors")
    return Checkpoint.open(tmp_path)


def test_parts_are_joined_in_the_type_that_is_asked_for(checkpoint: Checkpoint) -> None:
    loader = Loader(checkpoint, CPU, torch.float32)

    assert torch.equal(loader.tensor(ROWS), JOINED)
    assert torch.equal(loader.passing(ROWS), JOINED)


def test_columns_and_transposed_parts_are_cut_where_they_are_stored(checkpoint: Checkpoint) -> None:
    loader = Loader(checkpoint, CPU, torch.float32)
    columns, turned = Part("a", 1, 1, 2), Part("a", 0, 1, 2, transposed=True)

    for read in (loader.tensor, loader.passing):
        assert torch.equal(read([columns]), STORED["a"][:, 1:3].float())
        assert torch.equal(read([turned]), STORED["a"].t()[1:3].float())


def test_a_tensor_stays_as_it_is_and_a_passing_one_gives_way_to_the_next(checkpoint: Checkpoint) -> None:
    loader = Loader(checkpoint, CPU, torch.float32)
    kept = loader.tensor(ROWS)
    first = loader.passing(ROWS)
    second = loader.passing([Part("b", 0, 0, 3)])

    assert torch.equal(kept, JOINED)
    assert first.data_ptr() == second.data_ptr()


def test_progress_counts_the_bytes_of_the_files(checkpoint: Checkpoint) -> None:
    transfer = Transfer("loading", "x", 0, print)
    loader = Loader(checkpoint, CPU, torch.float32, transfer=transfer)
    loader.tensor(ROWS)
    assert transfer.done == 3 * 4 * 2 + 2 * 4 * 2

    loader.passing([Part("n")])
    assert transfer.done == 40 + 7 * 4


def test_parts_that_cannot_be_side_by_side_are_named(checkpoint: Checkpoint) -> None:
    loader = Loader(checkpoint, CPU, torch.float32)
    complaint = r"c and a belong side by side, and their shapes \[2, 5\] and \[6, 4\] differ"
    for read in (loader.tensor, loader.passing):
        with pytest.raises(CheckpointError, match=complaint):
            read([Part("a", 0, 0, 6), Part("c", 0, 0, 2)])


def test_pieces_cover_everything_once_and_are_no_larger_than_they_may_be() -> None:
    values = [torch.arange(60.0).view(20, 3), torch.arange(7).half(), torch.tensor(5.0), torch.empty(0, 4)]
    targets = [torch.zeros_like(value) for value in values]
    cut = list(pieces(list(zip(targets, values, strict=True)), 48))
    for target, value in cut:
        fill(target, value)

    assert all(torch.equal(target, value) for target, value in zip(targets, values, strict=True))
    assert max(value.nbytes for _, value in cut) == 48
    assert len(cut) == 5 + 1 + 1 + 1


def test_a_row_that_is_larger_than_a_piece_stays_whole() -> None:
    values = torch.arange(6.0).view(2, 3)

    assert [value.tolist() for _, value in pieces([(values, values)], 4)] == [[[0, 1, 2]], [[3, 4, 5]]]
