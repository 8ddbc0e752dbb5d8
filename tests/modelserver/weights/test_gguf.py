import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from safetensors.torch import load_file
from tiny_gguf import HEAD_DIM, LAYERS, add_byte_level_tokenizer, byte_level_tokens, llama_weights, write_gguf
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from textgen_server.errors import CheckpointError
from textgen_server.weights import gguf
from textgen_server.weights.progress import Report

Convert = Callable[[Path], Path]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    def into_a_folder(file: Path) -> Path:
        folder = tmp_path / "converted"
        folder.mkdir()
        gguf.convert(file, folder, print)
        return folder

    return into_a_folder


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_equals_the_one_that_transformers_loads(
    tmp_path: Path, convert: Convert, kind: str, tied: bool
) -> None:
    file = write_gguf(tmp_path / "m.gguf", llama_weights(tied), GGMLQuantizationType[kind])

    ours = load_file(convert(file) / "model.safetensors")

    config = transformers.LlamaConfig(**load_gguf_checkpoint(file)["config"])
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    theirs = load_gguf_checkpoint(file, return_tensors=True, model_to_load=model)["tensors"]
    assert ours.keys() == theirs.keys()
    assert len(ours) == 9 * LAYERS + (2 if tied else 3)
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], tensor), name


def test_unquantized_weights_come_out_as_they_went_in(tmp_path: Path, convert: Convert) -> None:
    weights = llama_weights()

    tensors = load_file(convert(write_gguf(tmp_path / "m.gguf", weights)) / "model.safetensors")

    for part, name in {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}.items():
        expected = weights[f"blk.1.{part}.weight"]
        assert np.array_equal(tensors[f"model.layers.1.self_attn.{name}.weight"].numpy(), expected)


def test_the_folder_loads_into_transformers_as_it_is(tmp_path: Path, convert: Convert) -> None:
    folder = convert(write_gguf(tmp_path / "m.gguf"))

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    assert isinstance(model, transformers.LlamaForCausalLM)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.head_dim == HEAD_DIM
    assert model.config.rms_norm_eps == 1e-5
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert model.config.vocab_size == len(byte_level_tokens())
    assert model.generation_config.eos_token_id == 2


def test_tensor_data_begins_at_a_page_so_that_it_is_aligned_when_mapped(tmp_path: Path, convert: Convert) -> None:
    file = convert(write_gguf(tmp_path / "m.gguf")) / "model.safetensors"

    with file.open("rb") as opened:
        header_size = int.from_bytes(opened.read(8), "little")

    assert (8 + header_size) % 4096 == 0


def test_every_token_that_ends_a_turn_ends_generation(tmp_path: Path, convert: Convert) -> None:
    folder = convert(write_gguf(tmp_path / "m.gguf", metadata=lambda writer: writer.add_eot_token_id(0)))

    config = json.loads((folder / "generation_config.json").read_text())

    assert config["eos_token_id"] == [2, 0]


def linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def linear_of_old_files(writer: GGUFWriter) -> None:
    writer.add_float32("llama.rope.scale_linear", 2.5)


def yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(16.0)
    writer.add_rope_scaling_orig_ctx_len(128)


def no_scaling(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        (linear, {"rope_type": "linear", "factor": 4.0}),
        (linear_of_old_files, {"rope_type": "linear", "factor": 2.5}),
        (yarn, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128}),
        (no_scaling, None),
    ],
)
def test_rope_scaling_is_kept(
    tmp_path: Path, convert: Convert, metadata: Callable[[GGUFWriter], None], scaling: dict[str, Any] | None
) -> None:
    assert read_config(convert(write_gguf(tmp_path / "m.gguf", metadata=metadata)))["rope_scaling"] == scaling


def llama3_divisors(factor: float, theta: float = 10000.0) -> np.ndarray:
    """What transformers' Llama 3 scaling divides the frequencies by."""
    scaling = {
        "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=131072,
        rope_parameters=scaling,
    )
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return (plain / scaled).numpy().astype(np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaling_of_llama_3_is_recognized_by_its_divisors(tmp_path: Path, convert: Convert, factor: float) -> None:
    weights = llama_weights() | {"rope_freqs.weight": llama3_divisors(factor)}

    folder = convert(write_gguf(tmp_path / "m.gguf", weights))

    assert read_config(folder)["rope_scaling"] == {
        "rope_type": "llama3", "factor": pytest.approx(factor), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert "rope_freqs.weight" not in load_file(folder / "model.safetensors")


def without(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {key: weight for key, weight in llama_weights().items() if key != name}


def with_tensor(name: str, shape: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
    return lambda: llama_weights() | {name: np.full(shape, 3, dtype=np.float32)}


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (without("blk.1.ffn_up.weight"), r"lacks 1 tensors, such as blk\.1\.ffn_up\.weight"),
        (without("token_embd.weight"), r"lacks the tensor token_embd\.weight"),
        (
            with_tensor("blk.0.attn_q.bias", (64,)),
            r"has, unlike a Llama model, 1 tensors, such as blk\.0\.attn_q\.bias",
        ),
        (with_tensor("rope_freqs.weight", (HEAD_DIM // 2,)), r"rope_freqs\.weight is not the rope scaling of Llama 3"),
        (with_tensor("rope_freqs.weight", (5,)), r"rope_freqs\.weight is not the rope scaling of Llama 3"),
        (with_tensor("token_embd.weight", (9, 64)), "only 9 embeddings"),
        (with_tensor("blk.0.attn_k.weight", (12, 64)), r"attn_k\.weight has 12 rows, not 2 heads of 16"),
    ],
)
def test_tensors_that_do_not_make_a_llama_are_named(
    tmp_path: Path, convert: Convert, weights: Callable[[], dict[str, Any]], complaint: str
) -> None:
    file = write_gguf(tmp_path / "m.gguf", weights())

    with pytest.raises(CheckpointError, match=complaint):
        convert(file)


def su_scaling(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    writer.add_rope_scaling_factor(2.0)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        (lambda writer: writer.add_expert_count(8), "mixtures of experts"),
        (lambda writer: writer.add_key_length(32), r"llama\.rope\.dimension_count is 16, but heads have 32"),
        (lambda writer: writer.add_value_length(8), r"llama\.attention\.value_length is 8, but heads have 16"),
        (lambda writer: writer.add_uint16("split.count", 3), "one part of several"),
        (su_scaling, "rope scaling 'longrope'"),
    ],
)
def test_models_that_llama_cannot_be_are_refused(
    tmp_path: Path, convert: Convert, metadata: Callable[[GGUFWriter], None], complaint: str
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        convert(write_gguf(tmp_path / "m.gguf", metadata=metadata))


def test_another_architecture_is_refused_with_the_list_of_those_supported(tmp_path: Path, convert: Convert) -> None:
    with pytest.raises(CheckpointError, match=r"architecture 'gptneox' is not supported in GGUF \(supported: llama\)"):
        convert(write_gguf(tmp_path / "m.gguf", architecture="gptneox"))


def test_a_type_that_cannot_be_read_names_the_tensor(tmp_path: Path, convert: Convert) -> None:
    def add_integers(writer: GGUFWriter) -> None:
        add_byte_level_tokenizer(writer)
        writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, dtype=np.int32))

    weights = {name: weight for name, weight in llama_weights().items() if name != "blk.0.attn_norm.weight"}

    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_norm\.weight is stored as I32, which is not supported"):
        convert(write_gguf(tmp_path / "m.gguf", weights, tokenizer=add_integers))


def test_progress_counts_the_bytes_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "m.gguf", kind=GGMLQuantizationType.Q8_0)
    folder = tmp_path / "converted"
    folder.mkdir()
    lines: list[str] = []
    clock: Iterator[float] = iter(range(0, 10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    gguf.convert(file, folder, lines.append)

    reports = [line.fields for line in lines if isinstance(line, Report)]
    done = [fields["done_bytes"] for fields in reports]
    assert {fields["stage"] for fields in reports} == {"converting"}
    assert done == sorted(set(done))
    assert 0 < done[-1] <= reports[-1]["total_bytes"] < file.stat().st_size
