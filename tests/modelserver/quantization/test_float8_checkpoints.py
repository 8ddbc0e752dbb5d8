"""Checkpoints in float8 with a quantization_config of their own, against transformers and against plain sums."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from harness import logits, make_runner
from quantization_cases import distance, float8, quantizable
from safetensors.torch import load_file, save_file
from shapes import LLAMA, Shape, make_model
from thread_ranks import on_ranks
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Quantize

from textgen_server.errors import CheckpointError
from textgen_server.quantization.float8 import Float8Checkpoint
from textgen_server.quantization.scaled_linear import scaled_layers
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Part

TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
SHAPE = Shape(LLAMA, {"hidden_size": 96, "intermediate_size": 160})
BLOCKS = {"weight_block_size": [32, 16]}


def by_blocks(name: str, weight: Tensor) -> dict[str, Tensor]:
    """As transformers does it."""
    config = SimpleNamespace(weight_block_size=BLOCKS["weight_block_size"], scale_fmt="float")
    quantized: dict[str, Tensor] = Fp8Quantize(SimpleNamespace(quantization_config=config)).convert({name: weight})
    return quantized


def by_rows(name: str, weight: Tensor) -> dict[str, Tensor]:
    scales = weight.abs().amax(1, keepdim=True) / 448
    return {name: (weight / scales).to(torch.float8_e4m3fn), f"{name}_scale": scales}


def as_a_whole(name: str, weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().max() / 448
    return {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}


def static(name: str, weight: Tensor) -> dict[str, Tensor]:
    prefix = name.removesuffix(".weight")
    return as_a_whole(name, weight) | {f"{prefix}.input_scale": torch.tensor([0.01])}


KINDS = {
    "transformers, blocks": (by_blocks, {"quant_method": "fp8", **BLOCKS}),
    "fbgemm, by rows": (by_rows, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "AutoFP8, dynamic": (as_a_whole, {"quant_method": "fp8", "activation_scheme": "dynamic"}),
    "AutoFP8, static": (static, {"quant_method": "fp8", "activation_scheme": "static"}),
}


def save(kind: str, folder: Path) -> None:
    quantize, config = KINDS[kind]
    model = make_model(SHAPE)
    matrices = {weight.data_ptr() for weight in quantizable(model)}
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    names = [name for name, own in model.named_parameters() if own.data_ptr() in matrices]
    for name in names:
        tensors |= quantize(name, tensors[name])
    save_file(tensors, folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": config}))


def dequantized(tensors: dict[str, Tensor], name: str, blocks: tuple[int, int] | None) -> Tensor:
    if blocks is None:
        return tensors[name].float() * tensors[f"{name}_scale"]
    scales = tensors[f"{name}_scale_inv"].repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)
    return tensors[name].float() * scales


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_the_codes_stand_for(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    config = KINDS[kind][1]
    checkpoint = Unpacked(Checkpoint.open(tmp_path), Float8Checkpoint.from_config(config, ""))
    tensors, blocks = load_file(tmp_path / "model.safetensors"), config.get("weight_block_size")
    for name in ("model.layers.0.self_attn.k_proj.weight", "model.layers.2.mlp.down_proj.weight"):
        whole = dequantized(tensors, name, blocks)
        assert torch.equal(checkpoint.tensor(name), whole)
        for dim, start, length in [(0, 5, 20), (1, 40, 33), (1, 13, 3), (0, 0, 32)]:
            assert torch.equal(checkpoint.slice(name, dim, start, length), whole.narrow(dim, start, length))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_rounds_activations_as_the_checkpoint_says(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    config, name = KINDS[kind][1], "model.layers.1.self_attn.q_proj.weight"
    checkpoint = Unpacked(Checkpoint.open(tmp_path), Float8Checkpoint.from_config(config, ""))
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)) * 3
    rounded = float8(x)
    if "static" in kind:
        rounded = (x / 0.01).clamp(-448, 448).to(torch.float8_e4m3fn).float() * 0.01
    if "blocks" in kind:
        rounded = float8(x.unflatten(1, (-1, 16))).flatten(1)
    parts = [Part(name), Part(name.replace("q_proj", "v_proj"), 0, 3, 11)]
    layers = scaled_layers([checkpoint.block(part) for part in parts], torch.device("cpu"), torch.float32)
    out = torch.cat([layer(x) for layer in layers], dim=-1)
    weight = torch.cat([checkpoint.tensor(parts[0].name), checkpoint.tensor(parts[1].name)[3:14]])
    assert len(layers) == 1
    torch.testing.assert_close(out, rounded @ weight.t(), rtol=1e-5, atol=1e-5)


def test_logits_are_near_those_of_transformers_which_dequantizes(tmp_path: Path) -> None:
    save("transformers, blocks", tmp_path)
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([TOKENS])).logits[0]
    runner = make_runner(tmp_path)
    assert runner.loaded.quantize == "fp8"
    # What is left is the rounding of activations to 3 bits of mantissa.
    assert distance(logits(runner, TOKENS), expected) < 0.1


@pytest.mark.parametrize("kind", ["transformers, blocks", "AutoFP8, static"])
def test_two_ranks_compute_what_one_computes(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    alone = logits(make_runner(tmp_path, quantize="fp8"), TOKENS)
    options = ServerOptions(model_id=str(tmp_path), device="cpu", cpu_kv_cache_gib=0.05)
    first, second = on_ranks(2, lambda group: logits(Runner(options, tmp_path, torch.device("cpu"), group), TOKENS))
    assert torch.equal(first, second)
    assert distance(first, alone) < 0.02


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"activation_scheme": "none"}, "activation_scheme must be 'dynamic' or 'static', not 'none'"),
        ({"weight_block_size": [128]}, "weight_block_size must be two whole numbers above 0, not .128."),
        ({"fmt": "e5m2"}, "fmt 'e5m2' cannot be read, only 'e4m3'"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(change: dict, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=f"^config.json: {complaint}"):
        Float8Checkpoint.from_config({"quant_method": "fp8"} | change, "config.json")


def test_a_matrix_in_float8_without_its_scale_is_damage(tmp_path: Path) -> None:
    save("AutoFP8, dynamic", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.weight holds torch\.float8_e4m3fn without a scale"):
        make_runner(tmp_path)
