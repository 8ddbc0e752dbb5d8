"""The only reader of config.json on the model's side: what runner and families need, by one name each, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen_server import registry
from textgen_server.errors import CheckpointError
from textgen_server.layers.rotary import RopeConfig
from textgen_server.weights.config_files import read_json

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder model. `raw` is config.json itself, for what only one family knows."""

    family: registry.Family
    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    stored_dtype: str
    raw: dict[str, Any]

    @property
    def rope(self) -> RopeConfig:
        """Rotary embedding, from either of the two places where transformers has kept it.

        Raises:
            CheckpointError: a value is not of its kind.
        """
        scaling = {**section(self.raw, "rope_scaling"), **section(self.raw, "rope_parameters")}
        theta = number(scaling, "rope_theta", number(self.raw, "rope_theta", 10000.0))
        share = number(scaling, "partial_rotary_factor", number(self.raw, "partial_rotary_factor", 1.0))
        dim = int(self.head_dim * share)
        if dim < 2 or dim % 2:
            raise CheckpointError(
                f"config.json: rotary embedding turns an even number of features, not {dim} of head_dim {self.head_dim}"
            )
        return RopeConfig(dim=dim, theta=theta, max_positions=self.max_positions, scaling=scaling)


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's config.json.

    Raises:
        CheckpointError: the file is absent or no JSON, its family is not served, or a field is missing or wrong.
    """
    raw = read_json(folder, "config.json")
    if raw is None:
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder")
    family = _family(raw)  # first: other families name their fields differently
    heads, kv_heads, head_dim = _heads(raw)
    return ModelConfig(
        family=family,
        model_type=raw["model_type"],
        vocab_size=count(raw, "vocab_size"),
        hidden_size=count(raw, "hidden_size"),
        num_layers=count(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=count(raw, "intermediate_size"),
        max_positions=count(raw, "max_position_embeddings"),
        norm_eps=number(raw, "rms_norm_eps", 1e-6),
        tied_embeddings=flag(raw, "tie_word_embeddings", False),
        stored_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        raw=raw,
    )


def _family(raw: Fields) -> registry.Family:
    model_type = raw.get("model_type")
    if model_type is None:
        raise CheckpointError("config.json lacks the field 'model_type'")
    family = registry.family_of(model_type)
    if family is None:
        known = ", ".join(sorted(name for f in registry.FAMILIES.values() for name in f.model_types))
        raise CheckpointError(f"config.json: model_type {model_type!r} is not supported; supported: {known}")
    return family


def _heads(raw: Fields) -> tuple[int, int, int]:
    """Query heads, KV heads, and the features of each."""
    heads, hidden = count(raw, "num_attention_heads"), count(raw, "hidden_size")
    kv_heads = count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv_heads})"
        )
    if raw.get("head_dim") is None and hidden % heads:
        raise CheckpointError(
            f"config.json: without head_dim, hidden_size ({hidden}) must be a multiple of num_attention_heads ({heads})"
        )
    return heads, kv_heads, count(raw, "head_dim", hidden // heads)


def count(fields: Fields, name: str, default: int | None = None) -> int:
    """A whole number of at least 1; `default` where it is absent or null.

    Raises:
        CheckpointError: it is something else, or absent without a default.
    """
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"config.json lacks the field {name!r}")
    if type(value) is not int or value < 1:
        raise CheckpointError(f"config.json: {name} must be a whole number of at least 1, not {value!r}")
    return value


def number(fields: Fields, name: str, default: float) -> float:
    """A number above 0; `default` where it is absent or null. Raises CheckpointError when it is something else."""
    value = fields.get(name)
    value = default if value is None else value
    if type(value) not in (int, float) or value <= 0:
        raise CheckpointError(f"config.json: {name} must be a number above 0, not {value!r}")
    return float(value)


def flag(fields: Fields, name: str, default: bool) -> bool:
    """true or false; `default` where it is absent or null. Raises CheckpointError when it is something else."""
    value = fields.get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be true or false, not {value!r}")
    return value


def section(fields: Fields, name: str) -> dict[str, Any]:
    """An object; empty where it is absent or null. Raises CheckpointError when it is something else."""
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"config.json: {name} must be an object, not {value!r}")
    return dict(value or {})
