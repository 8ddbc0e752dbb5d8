"""Checkpoints that the compressed-tensors library has written, against what the library makes of them, on the CPU."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from compressed_cases import IGNORED, MIXED, SCHEMES, SHAPE, save_compressed
from harness import logits, make_runner
from quantization_cases import distance
from safetensors.torch import load_file, save_file
from thread_ranks import on_ranks

from textgen_server.errors import CheckpointError, StartupError
from textgen_server.quantization.compressed_tensors import CompressedTensors
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint

TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
CASES = {name: [scheme] for name, scheme in SCHEMES.items()} | {"mixed": MIXED}
# Where activations are rounded, those that are between two codes may fall to either. The library's dynamic scales make
# the largest 127.5, which int8 does not have, and ours 127, as vLLM's: another way of rounding, over three layers.
TOLERANCE = {"W8A8": 0.05} | dict.fromkeys(("W8A8, static", "FP8", "FP8, dynamic", "FP8, blocks", "mixed"), 0.01)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_library(case: str, tmp_path: Path) -> None:
    model = save_compressed(CASES[case], tmp_path)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0]
    runner = make_runner(tmp_path)
    assert runner.loaded.quantize == "compressed-tensors"
    assert distance(logits(runner, TOKENS), expected) < TOLERANCE.get(case, 1e-5)


@pytest.mark.parametrize("case", ["W4A16, asymmetric", "W8A8", "FP8, blocks"])
def test_two_ranks_compute_what_one_computes(case: str, tmp_path: Path) -> None:
    save_compressed(CASES[case], tmp_path)
    alone = logits(make_runner(tmp_path), TOKENS)
    options = ServerOptions(model_id=str(tmp_path), device="cpu", cpu_kv_cache_gib=0.05)
    first, second = on_ranks(2, lambda group: logits(Runner(options, tmp_path, torch.device("cpu"), group), TOKENS))
    assert torch.equal(first, second)
    # Where activations are cut, each rank rounds its share by its own largest value.
    assert distance(first, alone) < (1e-5 if "A16" in case else 0.1)


def opened(folder: Path) -> Unpacked:
    fields = json.loads((folder / "config.json").read_text())["quantization_config"]
    return Unpacked(Checkpoint.open(folder), CompressedTensors.from_config(fields, "config.json"))


@pytest.mark.parametrize("case", ["W4A16, asymmetric", "W8A8", "FP8, blocks"])
def test_any_slice_of_a_matrix_is_that_of_the_whole(case: str, tmp_path: Path) -> None:
    save_compressed(CASES[case], tmp_path)
    checkpoint, name = opened(tmp_path), "model.layers.0.self_attn.q_proj.weight"
    whole = checkpoint.tensor(name)
    for dim, start, length in product((0, 1), (0, 13, 64), (1, 7, 32)):
        assert torch.equal(checkpoint.slice(name, dim, start, length), whole.narrow(dim, start, length))


def test_features_may_be_in_any_order_of_groups(tmp_path: Path) -> None:
    save_compressed(CASES["W4A16"], tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    whole = opened(tmp_path).tensor(f"{name}.weight")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[f"{name}.weight_g_idx"] = torch.arange(whole.shape[1] - 1, -1, -1, dtype=torch.int32) // 32
    tensors[f"{name}.weight_scale"] = tensors[f"{name}.weight_scale"].flip(1).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(opened(tmp_path).tensor(f"{name}.weight"), whole)
    tensors[f"{name}.weight_g_idx"][5] = 3
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"q_proj\.weight_g_idx has groups from 0 to 3, .* has 3 groups"):
        opened(tmp_path).tensor(f"{name}.weight")


CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
            "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
        }
    },
}


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("format", "nvfp4-pack-quantized", "config_groups.group_0: format 'nvfp4-pack-quantized' cannot be read"),
        ("sparsity_config", {"format": "sparse-24-bitmask"}, "sparsity_config 'sparse-24-bitmask' cannot be read"),
        ("transform_config", {"config_groups": {"R1": {}}}, "transform_config .rotated weights. is not supported"),
        ("config_groups", {}, "config_groups must name at least one group"),
        ("group.weights", None, "config_groups.group_0.weights must say"),
        ("group.targets", "Linear", "config_groups.group_0.targets must be a list of names, not 'Linear'"),
        ("group.output_activations", {"num_bits": 8}, ".*output_activations are not supported"),
        ("group.input_activations.symmetric", False, ".*input_activations must be symmetric, of 8 bits and type int"),
        ("group.input_activations.type", "float", ".*input_activations must be symmetric, of 8 bits and type int"),
        ("group.input_activations.dynamic", "local", ".*dynamic 'local' of input_activations is not supported"),
        ("group.weights.symmetric", False, ".*weights that are not symmetric can only be read in pack-quantized"),
        ("group.weights.num_bits", 4, ".*weights of 4 bits, type int, in format int-quantized cannot be read"),
        ("group.weights.strategy", "attn_head", ".*strategy 'attn_head' of weights is not supported"),
        ("format", "pack-quantized", ".*input_activations beside packed weights are not supported"),
    ],
)
def test_what_is_not_supported_is_named(path: str, value: object, complaint: str) -> None:
    config = json.loads(json.dumps(CONFIG))
    *parents, field = path.split(".")
    place = config["config_groups"]["group_0"] if parents else config
    for parent in parents[1:]:
        place = place[parent]
    place[field] = value
    with pytest.raises(CheckpointError, match=f"^config.json: {complaint}"):
        CompressedTensors.from_config(config, "config.json")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_compressed(CASES["W8A8"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj"
    for suffix, change, complaint in [
        ("weight", tensors[f"{name}.weight"].int(), r"weight holds torch.int32 beside .*\.weight_scale, and only"),
        ("weight_scale", torch.ones(5, 1), r"weight_scale of shape \[5, 1\] is neither one scale nor one for each"),
    ]:
        save_file(tensors | {f"{name}.{suffix}": change}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"k_proj\.{complaint}"):
            make_runner(tmp_path)


def test_a_static_scale_that_is_missing_is_named(tmp_path: Path) -> None:
    save_compressed(CASES["FP8"], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.input_scale"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"k_proj\.input_scale is missing, and .* static scales$"):
        make_runner(tmp_path)


def test_a_layer_of_no_group_is_named(tmp_path: Path) -> None:
    save_compressed(MIXED, tmp_path, ignore=[*IGNORED])
    config = json.loads((tmp_path / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["targets"] = ["re:.*self_attn.*"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"_proj\.weight_scale is there, and no group .* has it as target"):
        make_runner(tmp_path)


def test_another_method_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    save_compressed(CASES["FP8, dynamic"], tmp_path, SHAPE)
    make_runner(tmp_path, quantize="compressed-tensors")
    with pytest.raises(StartupError, match=r"^--quantize fp8 does not fit .* leave the flag out$"):
        make_runner(tmp_path, quantize="fp8")
