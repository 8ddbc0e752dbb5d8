"""PEFT's LoRA folders (adapter_config.json and adapter_model.safetensors): what an adapter adds to which matrices.

LoRA (Hu et al. 2021) adds B A to a matrix W [out, in], with A [rank, in] and B [out, rank], times alpha / rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.config_files import read_json

CONFIG = "adapter_config.json"

_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# What would change the model in other ways: option -> values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "megatron_config": (None,),
}


@dataclass(frozen=True)
class LowRank:
    """What is added to one matrix: `b @ a`, with a [rank, in], and b [out, rank], already scaled, in float32."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Attributes:
        base: what it was trained on: a hub id or a path, as the adapter's author had it; "" where that is not told.
        matrices: by the name of the module that it changes, as in the base model's checkpoint.
    """

    base: str
    matrices: dict[str, LowRank]


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter.

    Raises:
        CheckpointError: files are missing or damaged, or it changes a model in a way that is not supported.
    """
    config = _read_config(folder)
    checkpoint = Checkpoint.open(folder)
    sides: dict[str, dict[str, Tensor]] = {}
    for name in sorted(checkpoint.names):
        match = _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{folder}: {name} is not the A or B of a LoRA matrix; only those are supported")
        sides.setdefault(match["module"], {})[match["side"]] = checkpoint.tensor(name).float()
    if not sides:
        raise CheckpointError(f"{folder} has no LoRA matrices")
    matrices = {module: _low_rank(folder, module, pair, config) for module, pair in sides.items()}
    return Adapter(str(config.get("base_model_name_or_path") or ""), matrices)


def check_fits(adapter: Adapter, folder: Path, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the base model `checkpoint` has every matrix that the adapter changes."""
    for module, matrix in adapter.matrices.items():
        name = f"{module}.weight"
        if name not in checkpoint:
            raise CheckpointError(f"{folder}: the model has no {module}; was the adapter made for another model?")
        wanted, shape = {matrix.b.shape[0], matrix.a.shape[1]}, checkpoint.shape(name)
        if wanted != set(shape):
            raise CheckpointError(
                f"{folder}: {module} is {list(shape)} in the model, and the adapter's is "
                f"{[matrix.b.shape[0], matrix.a.shape[1]]}; was it made for another model?"
            )


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder, CONFIG)
    if config is None:
        raise CheckpointError(f"{folder} has no {CONFIG}, so it is not an adapter")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder / CONFIG}: peft_type {kind!r} is not supported; only LORA is")
    for option, harmless in _UNSUPPORTED.items():
        if config.get(option) not in harmless:
            raise CheckpointError(f"{folder / CONFIG}: {option} = {config[option]!r} is not supported")
    return config


def _low_rank(folder: Path, module: str, pair: dict[str, Tensor], config: dict[str, Any]) -> LowRank:
    if set(pair) != {"A", "B"}:
        raise CheckpointError(f"{folder}: {module} has only one of lora_A and lora_B")
    a, b = pair["A"], pair["B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(f"{folder}: {module}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not multiply")
    return LowRank(a, b * _scale(folder, module, a.shape[0], config))


def _scale(folder: Path, module: str, rank: int, config: dict[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rank stabilisation (Kalajdzievski 2023)."""
    alpha = _for_module(module, config.get("alpha_pattern") or {}, config.get("lora_alpha", 8))
    if not isinstance(alpha, int | float):
        raise CheckpointError(f"{folder / CONFIG}: lora_alpha must be a number, not {alpha!r}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _for_module(module: str, patterns: Mapping[str, Any], default: Any) -> Any:
    """PEFT's rule: the first pattern that the end of the module's name matches."""
    matching = (value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
    return next(matching, default)
