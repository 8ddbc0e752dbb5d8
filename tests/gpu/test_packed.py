"""Models that stay packed on a GPU against the same models in full precision, in bfloat16."""

from pathlib import Path

import pytest
import torch
from harness import generate, logits, make_runner
from packed_cases import Awq, Gptq, save_packed
from quantization_cases import distance
from shapes import LLAMA, Shape

from textgen_server.parallel import Group
from textgen_server.runner.load import load_model
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: packed weights on GPUs are NOT tested"),
]

TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
SHAPE = Shape(LLAMA, {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512})
FORMATS = [Gptq(2), Gptq(3), Gptq(4, 128), Gptq(4, act_order=True), Gptq(8, -1), Awq(128)]


@pytest.mark.parametrize("how", FORMATS, ids=str)
def test_logits_are_those_of_the_model_with_dequantized_weights(how: Gptq | Awq, tmp_path: Path) -> None:
    packed, plain = save_packed(how, SHAPE, tmp_path)
    expected = logits(make_runner(plain, device="cuda", dtype="bfloat16"), TOKENS)
    runner = make_runner(packed, device="cuda", dtype="bfloat16")
    assert distance(logits(runner, TOKENS), expected) < 0.02
    assert [len(text) for text in generate(runner, [TOKENS, TOKENS[:3]], 8)] == [8, 8]


def test_a_model_is_held_in_its_packed_form(tmp_path: Path) -> None:
    shape = Shape(LLAMA, {"hidden_size": 2048, "num_attention_heads": 16, "intermediate_size": 8192})
    packed, _ = save_packed(Gptq(4, 128), shape, tmp_path)
    before = torch.cuda.memory_allocated()
    options = ServerOptions(model_id=str(packed), device="cuda", dtype="bfloat16")
    loaded = load_model(options, packed, torch.device("cuda"), Group())
    held = torch.cuda.memory_allocated() - before
    assert loaded.quantize == "gptq"
    assert held < 1.2 * Checkpoint.open(packed).num_bytes
