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
    base: dict = field(default_factory=lambda: SMALL)
    attention: str = "eager"
    """Which implementation of transformers to compare with."""


T5 = {
    "vocab_size": 131, "d_model": 48, "d_kv": 8, "d_ff": 80, "num_layers": 3, "num_heads": 6,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0,
}  # fmt: skip
# Of families that call it n_inner.
GPT2 = {"intermediate_size": None}
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
    "mixtral": {
        "five experts": Shape(transformers.MixtralConfig, {"num_local_experts": 5, "sliding_window": None}),
        "window, one expert a token": Shape(
            transformers.MixtralConfig, {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 16}
        ),
    },
    "qwen2": {
        "upper layers slide": Shape(
            transformers.Qwen2Config, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
        ),
        "tied, no window": Shape(transformers.Qwen2Config, {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    },
    "qwen3": {
        "own head_dim": Shape(transformers.Qwen3Config, {"head_dim": 16}),
        "biases, tied, multi-query": Shape(
            transformers.Qwen3Config,
            {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
        ),
    },
    "qwen3-moe": {
        "weights as they are, one plain layer": Shape(
            transformers.Qwen3MoeConfig,
            {
                "head_dim": 16, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                "mlp_only_layers": [1], "intermediate_size": 80,
            },
        ),
        "weights that sum to one, window": Shape(
            transformers.Qwen3MoeConfig,
            {
                "head_dim": 16, "num_experts": 3, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
                "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 16, "attention_bias": True,
            },
        ),
    },
    "gemma": {
        "own head_dim": Shape(transformers.GemmaConfig, {"head_dim": 16}),
        "multi-query": Shape(transformers.GemmaConfig, {"head_dim": 8, "num_key_value_heads": 1}),
    },
    "gemma2": {
        "soft caps, alternating windows": Shape(
            transformers.Gemma2Config,
            {
                "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0,
            },
        ),
        "no soft caps": Shape(
            transformers.Gemma2Config,
            {"head_dim": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 12},
        ),
    },
    "gemma3": {
        "two rotary embeddings": Shape(
            transformers.Gemma3TextConfig,
            {
                "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 24, "sliding_window_pattern": 3,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
        ),
    },
    "phi3": {
        "fused": Shape(transformers.Phi3Config, {"sliding_window": 16}),
        "longrope, partial rotary": Shape(
            transformers.Phi3Config,
            {
                "head_dim": 16, "hidden_size": 96, "original_max_position_embeddings": 128,
                "rope_parameters": {
                    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
                    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.5], "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0],
                },
            },
        ),
    },
    "starcoder": {
        "multi-query": Shape(transformers.GPTBigCodeConfig, GPT2),
        "multi-head, not tied": Shape(
            transformers.GPTBigCodeConfig,
            {**GPT2, "multi_query": False, "tie_word_embeddings": False, "n_inner": 72},
        ),
    },
    "falcon": {
        "7b": Shape(transformers.FalconConfig, {"multi_query": True, "parallel_attn": True, "bias": False}),
        "40b": Shape(transformers.FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}),
        # transformers computes slopes in bfloat16, exact for 8 heads at positions below 256; "eager" adds them twice.
        "rw: ALiBi, biases": Shape(
            transformers.FalconConfig,
            {
                "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "num_attention_heads": 8,
                "ffn_hidden_size": 80, "tie_word_embeddings": False,
            },
            attention="sdpa",
        ),
        "40b, one norm": Shape(
            transformers.FalconConfig,
            {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1, "bias": True},
        ),
        "7b, ALiBi": Shape(
            transformers.FalconConfig, {"alibi": True, "num_attention_heads": 8}, attention="sdpa"
        ),
    },
    "bloom": {
        "six heads": Shape(transformers.BloomConfig),
        "normed residual, not tied": Shape(
            transformers.BloomConfig,
            {"apply_residual_connection_post_layernorm": True, "tie_word_embeddings": False},
        ),
    },
    "gpt-neox": {
        "parallel, a quarter rotated": Shape(transformers.GPTNeoXConfig),
        "sequential, no biases, half rotated, tied": Shape(
            transformers.GPTNeoXConfig,
            {
                "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            },
        ),
    },
    "gpt2": {
        "transposed": Shape(transformers.GPT2Config, GPT2),
        "scaled by layer, not tied": Shape(
            transformers.GPT2Config,
            {
                **GPT2, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False, "n_inner": 72,
                "activation_function": "relu",
            },
        ),
    },
    "starcoder2": {
        "window, tied": Shape(transformers.Starcoder2Config, {"sliding_window": 16}),
        "no biases, not tied": Shape(transformers.Starcoder2Config, {"use_bias": False, "tie_word_embeddings": False}),
    },
    "t5": {
        "1.0, relu, scaled": Shape(transformers.T5Config, {}, T5),
        "1.1, gated, more decoder layers": Shape(
            transformers.T5Config,
            {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 4},
            T5,
        ),
        "mT5": Shape(transformers.MT5Config, {"feed_forward_proj": "gated-gelu"}, T5),
    },
}  # fmt: skip


def make_model(shape: Shape) -> transformers.PreTrainedModel:
    """transformers' model of that shape, with random weights that hide no mistake (norms and biases too)."""
    config = shape.config(**{**shape.base, **shape.overrides})
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation=shape.attention).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            of_norm = "norm" in name or "ln_" in name
            around_zero = not of_norm or config.model_type.startswith("gemma")
            weight.normal_(0.0 if around_zero else 1.0, 0.3 if of_norm else 0.08)
    return model


def save_checkpoint(shape: Shape, folder: Path) -> Path:
    """Write the model to `folder` as safetensors; returns the folder."""
    make_model(shape).save_pretrained(folder)
    return folder
