"""Shapes of tiny random checkpoints, per family of the registry; made by transformers, shared by the parity tests."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

SMALL = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@dataclass
class Shape:
    config: type[transformers.PretrainedConfig]
    overrides: dict = field(default_factory=dict)


LLAMA = transformers.LlamaConfig
MISTRAL = transformers.MistralConfig
SHAPES: dict[str, dict[str, Shape]] = {
    "llama": {
        "grouped-query": Shape(LLAMA),
        "tied": Shape(LLAMA, {"tie_word_embeddings": True}),
        "multi-head": Shape(LLAMA, {"num_key_value_heads": 6}),
        "multi-query, own head_dim, biases": Shape(
            LLAMA, {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "mlp_bias": True}
        ),
        "rope linear": Shape(LLAMA, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        "rope llama3": Shape(
            LLAMA,
            {
                "rope_parameters": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64, "rope_theta": 5e5,
                }
            },
        ),
        "rope yarn": Shape(
            LLAMA,
            {
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4,
                }
            },
        ),
    },
    "mistral": {
        "window": Shape(MISTRAL, {"sliding_window": 16}),
        "no window, own head_dim": Shape(MISTRAL, {"sliding_window": None, "head_dim": 16}),
    },
}  # fmt: skip


def make_model(shape: Shape) -> transformers.PreTrainedModel:
    """transformers' model of that shape, with random weights that hide no mistake (norms and biases too)."""
    config = shape.config(**{**SMALL, **shape.overrides})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3 if "norm" in name else 0.08)
    return model


def save_checkpoint(shape: Shape, folder: Path) -> Path:
    """Write the model to `folder` as safetensors; returns the folder."""
    make_model(shape).save_pretrained(folder)
    return folder
