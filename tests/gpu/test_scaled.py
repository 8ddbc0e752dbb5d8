"""Models in 8 bits on a GPU against the same models on the CPU, whose way of computing is always right."""

from pathlib import Path

import pytest
import torch
from compressed_cases import SCHEMES, save_compressed
from harness import generate, logits, make_runner
from quantization_cases import distance
from shapes import LLAMA, Shape, save_checkpoint

from textgen_server.parallel import Group
from textgen_server.quantization.scaled_linear import Float8Product, Int8Product
from textgen_server.runner.load import load_model
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: 8-bit weights on GPUs are NOT tested"),
]

TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
SHAPE = Shape(LLAMA, {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512})
# bfloat16, and activations that one side rounds and the other, without such units, does not.
TOLERANCE = 0.1


@pytest.mark.parametrize("case", SCHEMES)
def test_checkpoints_of_compressed_tensors(case: str, tmp_path: Path) -> None:
    save_compressed([SCHEMES[case]], tmp_path, SHAPE)
    expected = logits(make_runner(tmp_path), TOKENS)
    runner = make_runner(tmp_path, device="cuda", dtype="bfloat16")
    assert distance(logits(runner, TOKENS).cpu(), expected) < TOLERANCE
    assert [len(text) for text in generate(runner, [TOKENS, TOKENS[:3]], 8)] == [8, 8]


@pytest.mark.parametrize("method", ["fp8", "int8", "eetq"])
def test_methods_that_quantize_as_weights_load(method: str, tmp_path: Path) -> None:
    save_checkpoint(SHAPE, tmp_path)
    expected = logits(make_runner(tmp_path, quantize=method), TOKENS)
    runner = make_runner(tmp_path, device="cuda", dtype="bfloat16", quantize=method)
    assert distance(logits(runner, TOKENS).cpu(), expected) < TOLERANCE
    assert [len(text) for text in generate(runner, [TOKENS, TOKENS[:3]], 8)] == [8, 8]


def test_products_in_8_bits_are_chosen_where_there_are_units_for_them(tmp_path: Path) -> None:
    save_compressed([SCHEMES["W8A8"]], tmp_path, SHAPE)
    layers = list(make_runner(tmp_path, device="cuda", dtype="bfloat16").loaded.model.modules())
    assert any(isinstance(layer, Int8Product) for layer in layers)
    save_checkpoint(SHAPE, tmp_path / "full")
    layers = list(make_runner(tmp_path / "full", device="cuda", quantize="fp8").loaded.model.modules())
    has_float8 = torch.cuda.get_device_capability() >= (8, 9)
    assert any(isinstance(layer, Float8Product) for layer in layers) == has_float8


@pytest.mark.parametrize("method", ["fp8", "int8", "eetq"])
def test_a_model_is_held_in_8_bits(method: str, tmp_path: Path) -> None:
    save_checkpoint(Shape(LLAMA, {"hidden_size": 2048, "num_attention_heads": 16, "intermediate_size": 8192}), tmp_path)
    before = torch.cuda.memory_allocated()
    options = ServerOptions(model_id=str(tmp_path), device="cuda", dtype="bfloat16", quantize=method)
    loaded = load_model(options, tmp_path, torch.device("cuda"), Group())
    held = torch.cuda.memory_allocated() - before
    assert loaded.quantize == method
    assert held < 0.3 * Checkpoint.open(tmp_path).num_bytes  # which is in float32
