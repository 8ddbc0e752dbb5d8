"""Checkpoints as older releases of transformers wrote them: other names of fields and tensors, the same logits."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from harness import logits, make_runner
from safetensors.torch import load_file, save_file
from shapes import SHAPES, Shape, make_model

WEIGHTS = "model.safetensors"
TOKENS = torch.randint(3, 131, (41,), generator=torch.Generator().manual_seed(1)).tolist()


@dataclass
class Old:
    """A new shape and what was different: `fields` of config.json (`...` removes one), names of tensors."""

    shape: Shape
    fields: dict[str, object]
    rename: Callable[[str], str] = str
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


def without_root(name: str) -> str:
    return name.removeprefix("transformer.")


OLD = {
    "gpt2 without root, with masks": Old(
        SHAPES["gpt2"]["transposed"],
        {"tie_word_embeddings": ...},
        without_root,
        {"h.0.attn.bias": torch.ones(1, 1, 8, 8)},
    ),
    "bloom without root": Old(
        SHAPES["bloom"]["six heads"],
        {"n_embed": 48, "hidden_size": ..., "seq_length": 256, "max_position_embeddings": ...},
        without_root,
    ),
    "falcon-7b as RefinedWebModel": Old(
        SHAPES["falcon"]["7b"],
        {
            "model_type": "RefinedWebModel", "n_head": 6, "num_attention_heads": ..., "n_layer": 3, "num_kv_heads": ...,
            "num_hidden_layers": ..., "new_decoder_architecture": ..., "ffn_hidden_size": ..., "intermediate_size": ...,
            "rope_parameters": ..., "tie_word_embeddings": ...,
        },
    ),
    "falcon-40b as RefinedWeb": Old(
        SHAPES["falcon"]["40b"],
        {
            "model_type": "RefinedWeb", "n_head": 6, "num_attention_heads": ..., "n_layer": 3, "num_hidden_layers": ...,
            "n_head_kv": 2, "num_kv_heads": ..., "new_decoder_architecture": ..., "num_ln_in_parallel_attn": ...,
        },
    ),
    "pythia": Old(
        SHAPES["gpt-neox"]["parallel, a quarter rotated"],
        {"rope_parameters": ..., "rotary_pct": 0.25, "rotary_emb_base": 10000, "head_dim": ...},
    ),
    "gemma 3 text": Old(
        SHAPES["gemma3"]["two rotary embeddings"],
        {
            "rope_parameters": ..., "layer_types": ..., "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 3,
            "tie_word_embeddings": ...,
        },
    ),
    "phi3 with su": Old(
        SHAPES["phi3"]["longrope, partial rotary"],
        {
            "rope_parameters": ..., "rope_theta": 1e4, "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "type": "su", "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.5],
                "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0],
            },
        },
    ),
    "gemma 2": Old(
        SHAPES["gemma2"]["soft caps, alternating windows"],
        {"layer_types": ..., "rope_parameters": ..., "rope_theta": 1e4, "tie_word_embeddings": ...},
    ),
    "qwen2": Old(
        SHAPES["qwen2"]["upper layers slide"], {"layer_types": ..., "rope_parameters": ..., "rope_theta": 1e4}
    ),
}  # fmt: skip


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
def test_the_logits_are_the_same(old: Old, tmp_path: Path) -> None:
    model = make_model(old.shape)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | old.fields
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({old.rename(name): tensor for name, tensor in tensors.items()} | old.extra, tmp_path / WEIGHTS)
    same_logits(model, tmp_path)


def same_logits(model, folder: Path) -> None:
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(logits(make_runner(folder), TOKENS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("root", ["language_model.model.", "model.language_model."])
def test_gemma_3_that_sees_is_served_for_its_text(root: str, tmp_path: Path) -> None:
    model = make_model(SHAPES["gemma3"]["two rotary embeddings"])
    model.save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"model_type": "siglip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({root + name.removeprefix("model."): tensor for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    same_logits(model, tmp_path)
