"""Checkpoints that are quantized already, on the CPU: what is read is exactly what was packed."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import transformers
from harness import logits, make_runner
from packed_cases import Awq, Gptq, rounded, save_packed
from safetensors.torch import load_file, save_file
from shapes import LLAMA, SHAPES, Shape
from thread_ranks import on_ranks

from textgen_server.errors import CheckpointError, StartupError
from textgen_server.quantization import awq, gptq
from textgen_server.quantization.packing import pack, unpack
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint

TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()
FORMATS: list[Gptq | Awq] = [
    Gptq(bits, group_size, act_order, symmetric, checkpoint_format)
    for bits, group_size, act_order, symmetric, checkpoint_format in product(
        (2, 3, 4, 8), (-1, 16, 32), (False, True), (True, False), ("gptq", "gptq_v2")
    )
]
FORMATS += [Awq(-1), Awq(16), Awq(32)]
# Lengths that are no multiple of a word, a group, or the other.
SIZES = (72, 40)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def name_of(how: Gptq | Awq) -> str:
    if isinstance(how, Awq):
        return f"awq, groups of {how.group_size}"
    kind = ("symmetric" if how.symmetric else "asymmetric") + (", act-order" if how.act_order else "")
    return f"{how.checkpoint_format} {how.bits} bit, groups of {how.group_size}, {kind}"


def matrix(out: int, size: int) -> torch.Tensor:
    weight = torch.randn(out, size, generator=torch.Generator().manual_seed(3)) * 0.05
    weight[::5] = weight[::5].abs()  # their zeros are 0
    return weight


def opened(how: Gptq | Awq, folder: Path) -> tuple[Unpacked, torch.Tensor]:
    values = rounded(matrix(*SIZES), how)
    save_file(how.tensors("x", values), folder / "model.safetensors")
    method = gptq.Gptq if isinstance(how, Gptq) else awq.Awq
    packing = method.from_config(how.config, "config.json")
    return Unpacked(Checkpoint.open(folder), packing), values.weight


@pytest.mark.parametrize("how", FORMATS, ids=name_of)
def test_a_matrix_and_any_slice_of_it_are_exactly_what_was_packed(how: Gptq | Awq, tmp_path: Path) -> None:
    checkpoint, weight = opened(how, tmp_path)
    assert checkpoint.names == {"x.weight"}
    assert checkpoint.shape("x.weight") == SIZES
    assert torch.equal(checkpoint.tensor("x.weight"), weight)
    for dim, start, length in product((0, 1), (0, 1, 13, 32), (1, 7, 8)):
        assert torch.equal(checkpoint.slice("x.weight", dim, start, length), weight.narrow(dim, start, length)), (
            dim,
            start,
            length,
        )


@pytest.mark.parametrize("zeros", [False, True], ids=["absent", "of zeros"])
def test_without_act_order_g_idx_may_say_nothing(zeros: bool, tmp_path: Path) -> None:
    how = Gptq(with_g_idx=False, group_size=8)
    checkpoint, weight = opened(how, tmp_path)
    if zeros:
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["x.g_idx"] = torch.zeros(SIZES[1], dtype=torch.int32)
        save_file(tensors, tmp_path / "model.safetensors")
        checkpoint = Unpacked(Checkpoint.open(tmp_path), checkpoint.packing)
    assert torch.equal(checkpoint.tensor("x.weight"), weight)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_is_the_inverse_of_unpacking(bits: int) -> None:
    numbers = torch.randint(0, 2**bits, (37, 5), dtype=torch.uint8)
    assert torch.equal(unpack(pack(numbers, bits), bits, 0, 37), numbers)


MODELS = {
    "llama": SHAPES["llama"]["multi-query, own head_dim, biases"],
    "falcon": SHAPES["falcon"]["40b"],
    "bloom": SHAPES["bloom"]["six heads"],
    "gpt2, transposed": SHAPES["gpt2"]["transposed"],
    "t5": SHAPES["t5"]["1.1, gated, more decoder layers"],
}


@pytest.mark.parametrize("shape", MODELS.values(), ids=MODELS)
def test_logits_are_those_of_the_model_with_the_dequantized_weights(shape: Shape, tmp_path: Path) -> None:
    packed, plain = save_packed(Gptq(act_order=True, symmetric=False), shape, tmp_path)
    runner = make_runner(packed)
    assert runner.loaded.quantize == "gptq"
    torch.testing.assert_close(logits(runner, TOKENS), logits(make_runner(plain), TOKENS), **TOLERANCE)


@pytest.mark.parametrize("how", [Gptq(2), Gptq(3), Gptq(4), Gptq(8), Awq(16)], ids=name_of)
def test_logits_are_those_of_transformers_with_the_dequantized_weights(how: Gptq | Awq, tmp_path: Path) -> None:
    packed, plain = save_packed(how, Shape(LLAMA), tmp_path)
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(plain)(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(
        logits(make_runner(packed, quantize=how.config["quant_method"]), TOKENS), expected, **TOLERANCE
    )


@pytest.mark.parametrize("how", [Gptq(), Gptq(3, act_order=True), Gptq(8, -1), Gptq(group_size=32), Awq()], ids=name_of)
def test_two_ranks_compute_what_one_computes(how: Gptq | Awq, tmp_path: Path) -> None:
    packed, plain = save_packed(how, Shape(LLAMA), tmp_path)
    options = ServerOptions(model_id=str(packed), device="cpu", cpu_kv_cache_gib=0.05)
    expected = logits(make_runner(plain), TOKENS)
    for found in on_ranks(2, lambda group: logits(Runner(options, packed, torch.device("cpu"), group), TOKENS)):
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("how", "file", "fields"),
    [
        (Gptq(), "quantize_config.json", {"bits": 4, "group_size": 16, "desc_act": False}),
        (Awq(), "quant_config.json", {"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"}),
    ],
    ids=["gptq", "awq"],
)
def test_an_older_file_says_what_config_json_does_not(how: Gptq | Awq, file: str, fields: dict, tmp_path: Path) -> None:
    packed, plain = save_packed(how, Shape(LLAMA), tmp_path)
    (packed / "config.json").write_text((plain / "config.json").read_text())
    (packed / file).write_text(json.dumps(fields))
    assert torch.allclose(logits(make_runner(packed), TOKENS), logits(make_runner(plain), TOKENS), **TOLERANCE)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"bits": 5}, "bits of GPTQ must be 2, 3, 4 or 8, not 5; serve a checkpoint"),
            ({"bits": None}, "bits must be a whole number, not None"),
            ({"group_size": 0}, "group_size must be -1 or above 0, not 0"),
            ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' cannot be read; serve"),
            ({"checkpoint_format": None, "format": "gptq_p"}, "format 'gptq_p' cannot be read; serve"),
            ({"is_marlin_format": True}, "is_marlin_format True cannot be read"),
            ({"pack_dtype": "int64"}, "pack_dtype 'int64' cannot be read, only 'int32'"),
            ({"dynamic": {".*down": {"bits": 8}}}, "dynamic gives other bits .* '.*down'"),
        ],
        ids=str,
    )
    def test_what_cannot_be_read_is_named_with_a_remedy(self, change: dict, complaint: str) -> None:
        with pytest.raises(CheckpointError, match=f"^config.json: quantization_config: {complaint}"):
            gptq.Gptq.from_config(Gptq().config | change, "config.json: quantization_config")

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"bits": 8}, "bits of AWQ must be 4, not 8; serve a checkpoint"),
            ({"group_size": 0}, "group_size must be -1 or above 0, not 0"),
            ({"version": "gemv"}, "version 'gemv' cannot be read; serve"),
        ],
        ids=str,
    )
    def test_what_cannot_be_read_of_awq_is_named_with_a_remedy(self, change: dict, complaint: str) -> None:
        with pytest.raises(CheckpointError, match=f"^config.json: {complaint}"):
            awq.Awq.from_config(Awq().config | change, "config.json")

    def test_scaled_activations_are_refused(self, tmp_path: Path) -> None:
        tensors = Awq().tensors("up", rounded(matrix(*SIZES), Awq())) | {"act.scales": torch.ones(4)}
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"^act\.scales and 0 more scale something else than a matrix"):
            Unpacked(Checkpoint.open(tmp_path), awq.Awq(16))

    @pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 32}], ids=str)
    def test_tensors_that_do_not_fit_the_configuration_are_named(self, change: dict, tmp_path: Path) -> None:
        packed, _ = save_packed(Gptq(), Shape(LLAMA), tmp_path)
        config = json.loads((packed / "config.json").read_text())
        config["quantization_config"] |= change
        (packed / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            CheckpointError, match=r"_proj\.(qweight|qzeros|scales) of shape .* is not .* bits in groups"
        ):
            make_runner(packed)

    @pytest.mark.parametrize("name", ["qweight", "qzeros"])
    def test_words_of_another_type_are_named(self, name: str, tmp_path: Path) -> None:
        checkpoint, _ = opened(Gptq(), tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors[f"x.{name}"] = tensors[f"x.{name}"].long()
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"^x\.{name} holds torch.int64, and only torch.int32"):
            Unpacked(Checkpoint.open(tmp_path), checkpoint.packing).shape("x.weight")

    def test_groups_that_do_not_exist_are_damage(self, tmp_path: Path) -> None:
        checkpoint, _ = opened(Gptq(), tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["x.g_idx"][3] = 3
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"^x\.g_idx has groups from 0 to 3, and x\.scales has 3 groups"):
            Unpacked(Checkpoint.open(tmp_path), checkpoint.packing).tensor("x.weight")

    def test_another_method_than_the_checkpoints_is_refused(self, tmp_path: Path) -> None:
        packed, plain = save_packed(Gptq(), Shape(LLAMA), tmp_path)
        with pytest.raises(StartupError, match=r"^--quantize bitsandbytes does not fit .* leave the flag out$"):
            make_runner(packed, quantize="bitsandbytes")
        with pytest.raises(StartupError, match=r"^--quantize gptq needs a checkpoint .* bitsandbytes-nf4"):
            make_runner(plain, quantize="gptq")

    def test_a_slice_beyond_the_matrix_is_refused(self, tmp_path: Path) -> None:
        checkpoint, _ = opened(replace(Gptq(), bits=8), tmp_path)
        with pytest.raises(CheckpointError, match=r"^x\.weight of shape .* lacks elements 70 to 73 of dimension 0"):
            checkpoint.slice("x.weight", 0, 70, 3)
