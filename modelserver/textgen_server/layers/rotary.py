"""Rotary position embedding (Su et al. 2021) and its scalings for longer contexts."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textgen_server.errors import CheckpointError
from textgen_server.native.ops import fit, rotate_


@dataclass(frozen=True)
class LongRope:
    """Sequences that began with more than `original` tokens are turned by the long factors from their first token on:
    their positions below `original` are looked up `shift` rows further on in the table of angles."""

    original: int
    shift: int


@dataclass(frozen=True)
class RopeConfig:
    """What config.json says about rotary embedding.

    Attributes:
        dim: how many of a head's features are rotated.
        theta: base of the frequencies.
        scaling: parameters of the scaling, `rope_type` among them; empty for none.
        max_positions: longest sequence that the model was made for.
    """

    dim: int
    theta: float
    max_positions: int
    scaling: dict[str, Any]

    @property
    def long(self) -> LongRope | None:
        """How LongRoPE tells long sequences from short ones; None for other kinds, and where all are short.

        Raises:
            CheckpointError: the original length is missing or no number.
        """
        if _kind(self) != "longrope":
            return None
        original = int(_number(self, "original_max_position_embeddings"))
        return LongRope(original, self.max_positions) if original < self.max_positions else None


def angles(rope: RopeConfig) -> tuple[Tensor, float]:
    """Angle of each pair of features at each position, [max_positions, dim / 2] float32, and the factor on cos and sin.
    Behind those, where `rope.long` is not None, a long sequence's at the positions below the original length.

    Raises:
        CheckpointError: a rope_type that is not known here, or one of its parameters is missing or wrong.
    """
    positions = torch.arange(rope.max_positions, dtype=torch.float32)
    if _kind(rope) != "longrope":
        frequencies, factor = inverse_frequencies(rope)
        return torch.outer(positions, frequencies), factor
    near, far, factor = _longrope(rope)
    if rope.long is None:
        return torch.outer(positions, near), factor
    short, beyond = positions.split([rope.long.original, rope.max_positions - rope.long.original])
    return torch.cat([torch.outer(short, near), torch.outer(beyond, far), torch.outer(short, far)]), factor


def _kind(rope: RopeConfig) -> str:
    """LongRoPE went by other names in the first releases of Phi-3."""
    kind = str(rope.scaling.get("rope_type", rope.scaling.get("type", "default")))
    return "longrope" if kind in ("su", "yarn") and "long_factor" in rope.scaling else kind


def inverse_frequencies(rope: RopeConfig) -> tuple[Tensor, float]:
    """Angle per position of each pair of features, [dim / 2] float32, and the factor on cos and sin.

    Raises:
        CheckpointError: a rope_type that is not known here, or one of its parameters is missing or no number.
    """
    kind = _kind(rope)
    frequencies = 1.0 / rope.theta ** _exponents(rope)
    # Dynamic scaling begins behind `max_positions`, where no sequence gets.
    if kind in ("default", "dynamic"):
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / _number(rope, "factor"), 1.0
    if kind == "llama3":
        return _llama3(rope, frequencies), 1.0
    if kind == "yarn":
        return _yarn(rope, frequencies)
    raise CheckpointError(
        f"config.json: rope_type {kind!r} is not supported; supported: linear, dynamic, llama3, yarn, longrope"
    )


def _exponents(rope: RopeConfig) -> Tensor:
    return torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim


def _longrope(rope: RopeConfig) -> tuple[Tensor, Tensor, float]:
    """LongRoPE (Ding et al. 2024): a divisor for each frequency, one set for positions of the original length and one
    for those beyond, and the attention factor."""
    original = _number(rope, "original_max_position_embeddings")
    factor = _number(rope, "factor", rope.max_positions / original)
    attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    base = rope.theta ** _exponents(rope)
    near, far = (1.0 / (_numbers(rope, name, rope.dim // 2) * base) for name in ("short_factor", "long_factor"))
    return near, far, _number(rope, "attention_factor", attention)


def _llama3(rope: RopeConfig, frequencies: Tensor) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = _number(rope, "factor")
    low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
    original = _number(rope, "original_max_position_embeddings")
    turns = original * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * keep + frequencies / factor * (1 - keep)


def _yarn(rope: RopeConfig, frequencies: Tensor) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): as above, blended over the index of the feature pair, with attention temperature."""
    factor = _number(rope, "factor")
    original = _number(rope, "original_max_position_embeddings", rope.max_positions)

    def pair_of(rotations: float) -> float:
        return rope.dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_of(_number(rope, "beta_fast", 32)), pair_of(_number(rope, "beta_slow", 1))
    if rope.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    stretch = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    attention = _number(rope, "attention_factor", _yarn_attention(rope, factor))
    return frequencies / factor * stretch + frequencies * (1 - stretch), attention


def _yarn_attention(rope: RopeConfig, factor: float) -> float:
    def temperature(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.scaling.get("mscale") and rope.scaling.get("mscale_all_dim"):
        return temperature(_number(rope, "mscale")) / temperature(_number(rope, "mscale_all_dim"))
    return temperature(1.0)


def _number(rope: RopeConfig, name: str, default: float | None = None) -> float:
    value = rope.scaling.get(name)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"config.json: rope scaling {rope.scaling} lacks {name!r}")
    if not isinstance(value, int | float) or value <= 0:
        raise CheckpointError(f"config.json: {name} of the rope scaling must be a number above 0, not {value!r}")
    return float(value)


def _numbers(rope: RopeConfig, name: str, length: int) -> Tensor:
    values = rope.scaling.get(name)
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(type(v) in (int, float) and v > 0 for v in values)
    ):
        raise CheckpointError(f"config.json: {name} of the rope scaling must list {length} numbers above 0")
    return torch.tensor(values, dtype=torch.float32)


class Rotary(nn.Module):
    """Tables of cos and sin for all positions, and their application to heads."""

    def __init__(self, rope: RopeConfig, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        turns, factor = angles(rope)
        turns = torch.cat([turns, turns], dim=-1)
        self.cos = (turns.cos() * factor).to(device, dtype)
        self.sin = (turns.sin() * factor).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin) for positions [T], each [T, 1, dim]; once per step, for all layers."""
        return self.cos[positions, None], self.sin[positions, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + dim/2]) of the first `dim` features of each head by its position's angle; the others
    stay. x: [T, heads, head_dim]; cos, sin: [T, 1, dim].

    The result may be x itself, turned in place.
    """
    if fit(x, cos, sin) and x.stride()[1:] == (x.shape[2], 1):
        rotate_(x, cos, sin)
        return x
    dim = cos.shape[-1]
    turning, rest = x[..., :dim], x[..., dim:]
    first, second = turning.chunk(2, dim=-1)
    turned = torch.addcmul(turning * cos, torch.cat([-second, first], dim=-1), sin)
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned
