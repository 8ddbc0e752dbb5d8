"""LoRA adapters over quantized models, beside them and merged, against PEFT on the model with dequantized weights."""

from pathlib import Path

import peft
import pytest
import torch
import transformers
from harness import logits, make_runner
from packed_cases import Awq, Gptq, save_packed
from quantization_cases import METHODS, distance, save_twins
from shapes import LLAMA, Shape

from textgen_server.parallel import Group
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions

PROMPT = [5, 9, 17, 80, 3, 44]
# Of layers that round their inputs, or compute in bfloat16 (tests/modelserver/quantization/test_models.py).
TOLERANCE = {
    "bitsandbytes": 0.05,
    "bitsandbytes-nf4": 0.02,
    "bitsandbytes-fp4": 0.02,
    "fp8": 0.08,
    "int8": 0.05,
    "eetq": 0.01,
}
PACKED = {"gptq": Gptq(), "gptq, 3 bits, act-order": Gptq(3, act_order=True), "awq": Awq()}
# Sizes that AWQ's words of eight divide.
SHAPE = Shape(LLAMA, {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96})

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def save_adapter(base: Path, folder: Path) -> torch.Tensor:
    """A random adapter on every linear layer of the model in `base`; returns the logits of both together."""
    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"),
        peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    return model(torch.tensor([PROMPT])).logits[0].detach()


@pytest.mark.parametrize("method", METHODS)
def test_beside_a_model_that_is_quantized_as_it_loads(method, tmp_path):
    original, dequantized = save_twins(method, SHAPE, tmp_path)
    expected = save_adapter(dequantized, tmp_path / "tuned")

    runner = make_runner(original, block_size=8, quantize=method, lora_loading=True)
    runner.load_adapter("tuned", tmp_path / "tuned")

    assert distance(logits(runner, PROMPT, "tuned"), expected) < TOLERANCE[method]
    assert distance(logits(runner, PROMPT), expected) > 0.2


@pytest.mark.parametrize("how", PACKED)
def test_beside_a_packed_model_and_merged_into_it(how, tmp_path):
    packed, plain = save_packed(PACKED[how], SHAPE, tmp_path)
    expected = save_adapter(plain, tmp_path / "tuned")

    runner = make_runner(packed, block_size=8, lora_loading=True)
    runner.load_adapter("tuned", tmp_path / "tuned")
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8)
    merged = Runner(options, packed, torch.device("cpu"), Group(), {}, tmp_path / "tuned")

    torch.testing.assert_close(logits(runner, PROMPT, "tuned"), expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(logits(merged, PROMPT), expected, rtol=1e-4, atol=2e-4)
    assert distance(logits(runner, PROMPT), expected) > 0.2
