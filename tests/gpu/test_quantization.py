"""bitsandbytes' CUDA kernels against the weights that the quantized layers stand for, in bfloat16."""

import pytest
import torch
from harness import generate, logits, make_runner
from quantization_cases import (
    METHODS,
    SHAPES_OF_LAYERS,
    TOLERANCE,
    dequantized,
    distance,
    make_layer,
    random_matrix,
    save_twins,
)
from shapes import LLAMA, MISTRAL, Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: quantization on GPUs is NOT tested"),
]

CUDA = torch.device("cuda")
TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
MODEL = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}


@pytest.mark.parametrize("shape", SHAPES_OF_LAYERS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_equals_its_dequantized_reference(method, shape, tmp_path):
    rows, columns, length = shape
    weights = [random_matrix(count, columns, seed).to(CUDA, torch.bfloat16) for seed, count in enumerate(rows)]
    bias = (torch.arange(sum(rows), device=CUDA) / sum(rows)).bfloat16()
    x = (random_matrix(length, columns, 9) * 20).to(CUDA, torch.bfloat16)
    with torch.inference_mode():
        out = make_layer(method, weights, bias, tmp_path)(x)
        expected = x.float() @ torch.cat([dequantized(method, weight) for weight in weights]).t() + bias.float()
    assert out.dtype == torch.bfloat16
    assert distance(out, expected) < TOLERANCE[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_held_in_its_quantized_form(method, tmp_path):
    weight = random_matrix(4096, 4096, 0).to(CUDA, torch.bfloat16)
    full = weight.nbytes
    make_layer(method, [weight], None, tmp_path)  # whatever the library allocates once
    before = torch.cuda.memory_allocated()
    layer = make_layer(method, [weight], None, tmp_path)
    held = torch.cuda.memory_allocated() - before
    assert layer is not None
    assert held < full * (0.51 if method == "bitsandbytes" else 0.29)


@pytest.mark.parametrize("shape", [Shape(LLAMA, MODEL), Shape(MISTRAL, MODEL)], ids=["llama", "mistral"])
@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_the_model_with_dequantized_weights(method, shape, tmp_path):
    original, without = save_twins(method, shape, tmp_path)
    expected = logits(make_runner(without, device="cuda", dtype="bfloat16"), TOKENS)
    runner = make_runner(original, device="cuda", dtype="bfloat16", quantize=method)
    assert distance(logits(runner, TOKENS), expected) < 0.1
    assert [len(text) for text in generate(runner, [TOKENS, TOKENS[:3]], 8)] == [8, 8]
