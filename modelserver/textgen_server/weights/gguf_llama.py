"""The architecture "llama" in GGUF: its metadata as config.json, its tensors under Hugging Face's names.

Called by gguf.py. llama.cpp rotates neighbouring pairs of dimensions, transformers (and this server) the first half of
a head against the second; its converter therefore reorders the rows of the query and key projections, and `_row_order`
puts them back.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from textgen_server.errors import CheckpointError
from textgen_server.weights.gguf_file import GgufFile

_MODEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"


def config(source: GgufFile) -> dict[str, Any]:
    """config.json for `source`. Raises CheckpointError when it needs what LlamaForCausalLM does not have."""
    if source.find("llama.expert_count", int):
        raise CheckpointError(f"{source.path}: mixtures of experts are not supported")
    heads = _count(source, "llama.attention.head_count")
    theta = _decimal(source.find("llama.rope.freq_base", float) or 10000.0)
    head_dim = _head_dim(source)
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": _count(source, "llama.embedding_length"),
        "intermediate_size": _count(source, "llama.feed_forward_length"),
        "max_position_embeddings": _count(source, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": _count(source, "llama.block_count"),
        "num_key_value_heads": source.find("llama.attention.head_count_kv", int) or heads,
        "rms_norm_eps": _decimal(source.need("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_scaling": _rope_scaling(source, head_dim, theta),
        "rope_theta": theta,
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "torch_dtype": "float32",
        "vocab_size": _vocab_size(source),
    }


def tensor_names(source: GgufFile) -> dict[str, str]:
    """Hugging Face's name of each tensor in `source`, in the file's order.

    Raises CheckpointError when a tensor is missing, or there is one that a Llama model does not have.
    """
    num_layers = _count(source, "llama.block_count")
    names = _MODEL_NAMES | {
        f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}"
        for layer in range(num_layers)
        for ours, theirs in _LAYER_NAMES.items()
    }
    missing = names.keys() - source.tensors.keys() - {"output.weight"}
    unknown = source.tensors.keys() - names.keys() - {_ROPE_FACTORS}
    for what, which in (("lacks", missing), ("has, unlike a Llama model,", unknown)):
        if which:
            raise CheckpointError(f"{source.path} {what} {len(which)} tensors, such as {min(which)}")
    return {name: names[name] for name in source.tensors if name in names}


def row_order(source: GgufFile, name: str) -> npt.NDArray[np.intp] | None:
    """The order in which the rows of tensor `name` must be taken, or None when it is the stored one.

    Within a head of dimension d, the stored row 2i + j is row j * d/2 + i of the model. Raises CheckpointError when the
    rows are not those of the heads.
    """
    heads = _count(source, "llama.attention.head_count")
    if name.endswith("attn_k.weight"):
        heads = source.find("llama.attention.head_count_kv", int) or heads
    elif not name.endswith("attn_q.weight"):
        return None
    rows, head_dim = source.tensors[name].shape[0], _head_dim(source)
    if rows != heads * head_dim:
        raise CheckpointError(f"{source.path}: {name} has {rows} rows, not {heads} heads of {head_dim}")
    return np.arange(rows).reshape(heads, head_dim // 2, 2).swapaxes(1, 2).ravel()


def _count(source: GgufFile, key: str) -> int:
    value = source.need(key, int)
    if value < 1:
        raise CheckpointError(f"{source.path}: {key} is {value}")
    return value


def _decimal(value: float) -> float:
    """The shortest decimal that is the same in float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _head_dim(source: GgufFile) -> int:
    """Size of a head, provided that keys, values and the rotation all have it."""
    head_dim = source.find("llama.attention.key_length", int)
    if head_dim is None:
        head_dim = _count(source, "llama.embedding_length") // _count(source, "llama.attention.head_count")
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        size = source.find(key, int) or head_dim
        if size != head_dim:
            raise CheckpointError(f"{source.path}: {key} is {size}, but heads have {head_dim} dimensions")
    return head_dim


def _vocab_size(source: GgufFile) -> int:
    """Rows of the embedding; there may be fewer tokens, never more."""
    embedding = source.tensors.get("token_embd.weight")
    tokens = source.need("tokenizer.ggml.tokens", list)
    if embedding is None:
        raise CheckpointError(f"{source.path} lacks the tensor token_embd.weight")
    if len(tokens) > embedding.shape[0]:
        raise CheckpointError(f"{source.path}: {len(tokens)} tokens, but only {embedding.shape[0]} embeddings")
    return embedding.shape[0]


def _rope_scaling(source: GgufFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, or None when positions are not scaled."""
    if _ROPE_FACTORS in source.tensors:
        return _llama3_scaling(source, head_dim, theta)
    factor = source.find("llama.rope.scaling.factor", float) or source.find("llama.rope.scale_linear", float)
    kind = source.find("llama.rope.scaling.type", str) or ("linear" if factor else "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn") or not factor:
        raise CheckpointError(f"{source.path}: rope scaling {kind!r} with factor {factor} is not supported")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": _decimal(factor)}
    if kind == "yarn":
        original = source.need("llama.rope.scaling.original_context_length", int)
        scaling["original_max_position_embeddings"] = original
    return scaling


def _llama3_scaling(source: GgufFile, head_dim: int, theta: float) -> dict[str, Any]:
    """Llama 3's scaling. The file has only its outcome, one divisor for each frequency, so the parameters that all
    Llama 3.x releases share are tried and must give the same divisors."""
    stored = source.values(_ROPE_FACTORS, source.rows(_ROPE_FACTORS)).ravel()
    factor, low, high, original = float(stored.max()), 1.0, 4.0, 8192
    rotations = original * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
    smooth = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1.0 - smooth) / factor + smooth)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise CheckpointError(f"{source.path}: {_ROPE_FACTORS} is not the rope scaling of Llama 3")
    return {
        "rope_type": "llama3",
        "factor": _decimal(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
