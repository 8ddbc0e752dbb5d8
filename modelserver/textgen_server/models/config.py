"""The only reader of config.json on the model's side: what runner and families need, by one name each, checked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen_server import registry
from textgen_server.errors import CheckpointError
from textgen_server.layers.activation import Activation, activation
from textgen_server.layers.rotary import LongRope, RopeConfig
from textgen_server.models.foreign_config import ForeignConfig, read_foreign_config
from textgen_server.weights.config_files import read_json
from textgen_server.weights.inspection import family_in

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, of its decoder where it has an encoder too. `raw` is config.json itself, under Llama's names
    where it has others (`Family.fields`), for what only one family knows."""

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
    foreign: ForeignConfig | None = None

    @property
    def decoder_start_token(self) -> int | None:
        """The token that an encoder-decoder's output begins with; None for other models."""
        if not self.family.encoder_decoder:
            return None
        start = self.raw.get("decoder_start_token_id")
        start = self.raw.get("pad_token_id") if start is None else start
        if type(start) is not int or not 0 <= start < self.vocab_size:
            raise CheckpointError(f"config.json: decoder_start_token_id must be a token id, not {start!r}")
        return start

    @property
    def rope(self) -> RopeConfig:
        """Rotary embedding, from either of the two places where transformers has kept it.

        Raises:
            CheckpointError: a value is not of its kind.
        """
        parameters = section(self.raw, "rope_parameters")
        if "full_attention" in parameters:  # and others for layers that slide
            parameters = section(parameters, "full_attention")
        scaling = {**section(self.raw, "rope_scaling"), **parameters}
        return self.rope_of(scaling, number(self.raw, "rope_theta", 10000.0))

    def rope_of(self, scaling: dict[str, Any], theta: float) -> RopeConfig:
        """The rotary embedding that the parameters `scaling` describe, `theta` its base unless they have one."""
        original = self.raw.get("original_max_position_embeddings")
        if original is not None:
            scaling = scaling | {"original_max_position_embeddings": original}
        theta = number(scaling, "rope_theta", theta)
        share = number(scaling, "partial_rotary_factor", number(self.raw, "partial_rotary_factor", 1.0))
        dim = int(self.head_dim * share)
        if dim < 2 or dim % 2 or dim > self.head_dim:
            raise CheckpointError(
                f"config.json: rotary embedding turns an even number of features, not {dim} of head_dim {self.head_dim}"
            )
        return RopeConfig(dim=dim, theta=theta, max_positions=self.max_positions, scaling=scaling)

    @property
    def long_rope(self) -> LongRope | None:
        """What LongRoPE does with long sequences; None for models without. Raises CheckpointError as `rope`."""
        scaling = {**section(self.raw, "rope_scaling"), **section(self.raw, "rope_parameters")}
        return self.rope.long if "long_factor" in scaling else None

    def activation(self, field: str, default: str) -> Activation:
        """The activation function that `field` names. Raises CheckpointError when there is none of that name."""
        return activation(self.raw.get(field, default), field)

    def refuse(self, field: str, *supported: object) -> None:
        """Raise CheckpointError unless `field` is absent, null, or one of the `supported` values."""
        value = self.raw.get(field)
        if value is not None and value not in supported:
            known = " or ".join(json.dumps(value) for value in supported)
            raise CheckpointError(
                f"config.json: {field} {json.dumps(value)} is not supported for {self.model_type}; supported: {known}"
            )

    def windows(self, slides: Callable[[int], bool]) -> list[int | None]:
        """How many of the last tokens, itself included, a token of each layer sees; None for all.

        `sliding_window` in the layers that `layer_types` says, or where that is absent those for which `slides` is
        true; a null in config.json switches it off. Raises CheckpointError when one of the fields is not of its kind.
        """
        layers = range(self.num_layers)
        if self.raw.get("sliding_window") is None:
            return [None for _ in layers]
        window = count(self.raw, "sliding_window")
        types = self.raw.get("layer_types")
        if types is None:
            return [window if slides(layer) else None for layer in layers]
        sliding, full = "sliding_attention", "full_attention"
        if not isinstance(types, list) or len(types) != self.num_layers or {*types} - {sliding, full}:
            raise CheckpointError(f"config.json: layer_types must list {self.num_layers} times {sliding} or {full}")
        return [window if kind == sliding else None for kind in types]


def read_config(folder: Path, trust_remote_code: bool = False) -> ModelConfig:
    """Read a model folder's config.json. `trust_remote_code` lets the folder's own code run, where there is no other.

    Raises:
        CheckpointError: the file is absent or no JSON, its family is not served, or a field is missing or wrong.
    """
    raw = read_json(folder, "config.json")
    if raw is None:
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder")
    family = family_in(raw)  # first: other families name their fields differently
    foreign = read_foreign_config(folder, raw, trust_remote_code) if family is registry.FOREIGN else None
    raw |= section(raw, "text_config")  # of a model that also sees
    raw |= {
        ours: raw.get(theirs) for ours, theirs in family.fields.items() if not theirs or raw.get(theirs) is not None
    }
    if foreign is not None:
        raw |= foreign.fields
    raw = {**family.defaults, **raw}
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
        intermediate_size=count(raw, "intermediate_size", family.mlp_ratio * count(raw, "hidden_size") or None),
        # Relative positions know no end.
        max_positions=count(raw, "max_position_embeddings", 32768 if family.encoder_decoder else None),
        norm_eps=number(raw, "rms_norm_eps", 1e-6),
        tied_embeddings=flag(raw, "tie_word_embeddings", False),
        stored_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        raw=raw,
        foreign=foreign,
    )


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


def count(fields: Fields, name: str, default: int | None = None, least: int = 1) -> int:
    """A whole number of at least `least`; `default` where it is absent or null.

    Raises:
        CheckpointError: it is something else, or absent without a default.
    """
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"config.json lacks the field {name!r}")
    if type(value) is not int or value < least:
        raise CheckpointError(f"config.json: {name} must be a whole number of at least {least}, not {value!r}")
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
