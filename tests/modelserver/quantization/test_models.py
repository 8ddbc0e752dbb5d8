"""Whole models of every family in every quantization method, on the CPU."""

import sys
import weakref

import pytest
import torch
from harness import generate, logits, make_runner
from quantization_cases import METHODS, distance, save_twins
from shapes import LLAMA, SHAPES, Shape, save_checkpoint
from thread_ranks import on_ranks

from textgen_server.errors import StartupError
from textgen_server.parallel import Group
from textgen_server.runner.load import load_model
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions, parse
from textgen_server.weights.loader import Loader

ALL_CASES = {family: next(iter(shapes.values())) for family, shapes in SHAPES.items()} | {
    "llama with biases": SHAPES["llama"]["multi-query, own head_dim, biases"]
}
TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
# A linear layer's tolerances (quantization_cases.py) grow over three layers of attention and MLP.
TOLERANCE = {
    "bitsandbytes": 0.04,
    "bitsandbytes-nf4": 0.02,
    "bitsandbytes-fp4": 0.02,
    "fp8": 0.1,
    "int8": 0.04,
    "eetq": 1e-4,
}
# All families for one library's three methods; for those that share their code, families of every kind of layer.
EVERY_KIND = ("llama with biases", "falcon", "gpt2", "mixtral", "t5")
CASES = [(method, case) for method in METHODS for case in ALL_CASES if "bitsandbytes" in method or case in EVERY_KIND]


@pytest.mark.parametrize(("method", "case"), CASES)
def test_logits_are_those_of_the_model_with_dequantized_weights(method, case, tmp_path):
    original, dequantized = save_twins(method, ALL_CASES[case], tmp_path)
    expected = logits(make_runner(dequantized, block_size=8), TOKENS)
    runner = make_runner(original, block_size=8, quantize=method)
    assert distance(logits(runner, TOKENS), expected) < TOLERANCE[method]
    assert runner.loaded.quantize == method


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_gets_the_same_text_alone_and_in_a_batch(method, tmp_path):
    runner = make_runner(save_checkpoint(ALL_CASES["llama"], tmp_path), block_size=8, quantize=method)
    prompts = [TOKENS[:n] for n in (1, 9, 30)]
    assert generate(runner, prompts, 12) == [generate(runner, [prompt], 12)[0] for prompt in prompts]


@pytest.mark.parametrize("method", METHODS)
def test_at_most_one_layer_is_in_full_precision_at_a_time(method, tmp_path, monkeypatch):
    save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path)
    read = Loader.tensor
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def tensor(loader, parts):
        nonlocal most
        weight = read(loader, parts)
        # The survey of the checkpoint (weights/survey.py) builds a model without weights first.
        if weight.dim() == 2 and weight.device.type != "meta" and "model.layers" in parts[0].name:
            alive.append(weakref.ref(weight))
            most = max(most, sum(other() is not None for other in alive))
        return weight

    monkeypatch.setattr(Loader, "tensor", tensor)
    options = ServerOptions(model_id=str(tmp_path), device="cpu", quantize=method)
    loaded = load_model(options, tmp_path, torch.device("cpu"), Group())
    assert len(alive) == 4 * loaded.config.num_layers
    assert most == 1


# Shares of two ranks that consist of whole blocks of 64 weights, and shares that do not.
WHOLE_BLOCKS = Shape(LLAMA, {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 256})
PARTS_OF_BLOCKS = Shape(LLAMA)
# What is cut differently is rounded differently, by as much as quantization itself changes; whole blocks are not.
SHARED = [
    ("bitsandbytes", WHOLE_BLOCKS, 0.1),
    ("bitsandbytes", PARTS_OF_BLOCKS, 0.1),
    ("bitsandbytes-nf4", WHOLE_BLOCKS, 0.02),
    ("bitsandbytes-nf4", PARTS_OF_BLOCKS, 0.35),
    ("bitsandbytes-fp4", WHOLE_BLOCKS, 0.02),
    ("bitsandbytes-fp4", PARTS_OF_BLOCKS, 0.35),
    ("fp8", PARTS_OF_BLOCKS, 0.15),
    ("int8", PARTS_OF_BLOCKS, 0.1),
    ("eetq", PARTS_OF_BLOCKS, 0.03),
]


@pytest.mark.parametrize(("method", "shape", "limit"), SHARED)
def test_two_ranks_compute_what_one_computes(method, shape, limit, tmp_path):
    folder = save_checkpoint(shape, tmp_path)
    alone = logits(make_runner(folder, quantize=method), TOKENS)
    options = ServerOptions(model_id=str(folder), device="cpu", cpu_kv_cache_gib=0.05, quantize=method)
    first, second = on_ranks(2, lambda group: logits(Runner(options, folder, torch.device("cpu"), group), TOKENS))
    assert torch.equal(first, second)
    assert distance(first, alone) < limit


@pytest.mark.parametrize("method", [method for method in METHODS if "bitsandbytes" in method])
def test_without_the_library_the_sentence_says_what_to_install(method, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "textgen_server.quantization.bitsandbytes", raising=False)
    folder = save_checkpoint(ALL_CASES["llama"], tmp_path)
    with pytest.raises(StartupError, match=rf"--quantize {method} .*pip install 'textgen\[bitsandbytes\]'$"):
        make_runner(folder, quantize=method)


def test_int8_has_the_output_head_in_8_bits_too(tmp_path):
    folder = save_checkpoint(ALL_CASES["llama"], tmp_path)
    hidden = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    plain, quantized = (make_runner(folder, quantize=method).loaded.model.logits(hidden) for method in (None, "int8"))
    assert 1e-4 < distance(quantized, plain) < 0.02


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(StartupError, match=r"--quantize: unknown quantization method 'nf5'; available: .*bitsandbytes"):
        parse(["--quantize", "nf5"])


def test_the_one_of_tgis_methods_that_cannot_be_read_is_refused_with_a_remedy():
    with pytest.raises(
        StartupError, match=r"--quantize: 'exl2' means checkpoints .* cannot be read; serve one in gptq"
    ):
        parse(["--quantize", "exl2"])
