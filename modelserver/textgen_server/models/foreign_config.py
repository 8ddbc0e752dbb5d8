"""config.json of a model that has no module here, as transformers reads it, and whether its code can be served.

Used by models/config.py. transformers is optional and slow to import, so that only these models pay for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgen_server import registry
from textgen_server.errors import CheckpointError, TextgenError
from textgen_server.weights.inspection import without_transformers

_LAYERS = {"full_attention", "sliding_attention", "attention"}


@dataclass(frozen=True)
class ForeignConfig:
    """transformers' own configuration of a model, and the class of it that writes text.

    Attributes:
        fields: the model's shape, by the names that Llama's config.json has for it.
    """

    config: Any
    model_class: Any
    fields: dict[str, Any]


@contextmanager
def their_code(model_type: str) -> Iterator[None]:
    """Turn what transformers or a model's own code raises into a CheckpointError of one sentence."""
    try:
        yield
    except (TextgenError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # it may be anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"config.json: transformers' code for model_type {model_type!r} fails: {reason}"
        ) from error


def read_foreign_config(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> ForeignConfig:
    """Read config.json in `folder`, whose content is `raw`.

    Raises:
        CheckpointError: transformers does not know the model, or how it computes does not fit a paged cache.
    """
    model_type = raw["model_type"]
    try:
        from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
        from transformers.dynamic_module_utils import get_class_from_dynamic_module
    except ImportError as error:
        raise CheckpointError(without_transformers(model_type)) from error
    code = raw.get("auto_map")
    code = str(code.get("AutoModelForCausalLM", "")) if isinstance(code, dict) else ""
    known = model_type in CONFIG_MAPPING
    if not known and not (code and trust_remote_code):
        raise CheckpointError(_unknown(model_type, has_code=code != ""))
    with their_code(model_type):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=not known)
        mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
        model_class = mapping.get(type(config), None) if known else get_class_from_dynamic_module(code, folder)
    if obstacle := _obstacle(config, model_class):
        raise CheckpointError(f"config.json: model_type {model_type!r} cannot be served: {obstacle}")
    with their_code(model_type):
        return ForeignConfig(config, model_class, _shape(config))


def _shape(config: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    shape = {name: getattr(config, name, None) for name in (*names, "num_key_value_heads")}
    # Of latent attention (DeepSeek), whose head_dim is the rotated part alone.
    head_dim = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None)
    return shape | {"head_dim": head_dim, "rms_norm_eps": None}


def _unknown(model_type: str, has_code: bool) -> str:
    if has_code:
        return (
            f"config.json: model_type {model_type!r} comes with code of its own (auto_map), which is run only with "
            "--trust-remote-code true"
        )
    known = ", ".join(sorted(name for family in registry.FAMILIES.values() for name in family.model_types))
    return (
        f"config.json: model_type {model_type!r} is not supported; supported: {known}, and causal models that the "
        "installed transformers knows, which does not know this one"
    )


def _obstacle(config: Any, model_class: Any) -> str | None:
    """Why it cannot be served, as the rest of a sentence; None where nothing is known to be in the way."""
    if model_class is None:
        return "transformers has no causal language model of it"
    if config.is_encoder_decoder:
        return "it has an encoder and cross-attention"
    if config.get_text_config() is not config:
        return "it does not read text alone"
    if getattr(model_class, "_is_stateful", False):
        return "it keeps a recurrent state, which a cache of keys and values cannot hold"
    if others := {*(getattr(config, "layer_types", None) or ())} - _LAYERS:
        return f"it has layers of the kind {min(others)}, and only full and sliding attention can be paged"
    if not (getattr(model_class, "_supports_attention_backend", False) or model_class._can_set_attn_implementation()):
        return "its attention does not go through transformers' attention interface"
    rope = getattr(config, "rope_parameters", None) or {}
    if "longrope" in {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}:
        return "its rotary embedding (longrope) would change with the longest sequence of a batch"
    return None
