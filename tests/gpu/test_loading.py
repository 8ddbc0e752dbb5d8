"""Weights on their way to a GPU, through pinned memory and a stream of its own."""

import pytest
import torch
from safetensors.torch import save_file

from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part
from textgen_server.weights.transport import PIECE_BYTES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: loading to GPUs is NOT tested"),
]

COLUMNS = 1000
ROWS = 3 * PIECE_BYTES // (2 * COLUMNS) + 7  # more than three pieces in bfloat16
TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tensors = {name: torch.randn(ROWS, COLUMNS).to(dtype) for name, dtype in zip("abc", TYPES, strict=True)}
    save_file({**tensors, "norm": torch.randn(COLUMNS)}, folder / "model.safetensors")
    return Checkpoint.open(folder)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "parts",
    [
        [Part("a", 0, 5, ROWS - 9), Part("b", 0, 0, ROWS), Part("c", 0, 1, 2)],
        [Part("b", 1, 100, 300)],
        [Part("b", 0, 100, 300, transposed=True)],
        [Part("norm")],
    ],
    ids=["joined rows", "columns", "transposed", "a vector"],
)
def test_what_arrives_is_what_the_cpu_reads(checkpoint: Checkpoint, parts: list[Part], dtype: torch.dtype) -> None:
    on_cpu = Loader(checkpoint, torch.device("cpu"), dtype)
    on_gpu = Loader(checkpoint, torch.device("cuda"), dtype)
    with torch.inference_mode():
        # Several in a row, with memory that is given back in between, so that buffers are used again.
        arrived = [on_gpu.tensor(parts) * 1 for _ in range(5)]

        for tensor in arrived:
            assert torch.equal(tensor.cpu(), on_cpu.tensor(parts))
