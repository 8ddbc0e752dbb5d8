"""The `quantization_config` of compressed-tensors: groups of layers, and the scheme of each. What is not supported is
said here, before anything is read. Used by compressed_tensors.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from textgen_server.errors import CheckpointError
from textgen_server.quantization.float8 import block_size
from textgen_server.quantization.scaled_reading import Blocks

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_PACKED_BITS = (2, 4, 8)
_REMEDY = "serve another checkpoint of the model, or the original with --quantize"


@dataclass(frozen=True)
class Scheme:
    """How the layers of a group are quantized.

    Attributes:
        bits: width of a code.
        symmetric: there are no zeros.
        blocks: rows and columns that share a scale, 0 for all; None where the scales' shape tells.
        activations: whether they are rounded, and where their scales come from.
    """

    bits: int
    symmetric: bool
    blocks: Blocks
    activations: Literal["as they are", "dynamic", "static"]


@dataclass(frozen=True)
class Group:
    """Layers of one scheme: `targets` are names of modules, "re:" and a pattern that names begin with, or classes."""

    targets: tuple[str, ...]
    scheme: Scheme


@lru_cache(maxsize=4096)
def scheme_of(groups: Sequence[Group], prefix: str) -> Scheme:
    """The scheme of the linear layer `prefix`: of the group that names it, else whose pattern fits, else of the class.

    Raises CheckpointError when it is in none.
    """
    if len({group.scheme for group in groups}) == 1:
        return groups[0].scheme
    for fits in (_is_name, _is_pattern, _is_class):
        for group in groups:
            if any(fits(target, prefix) for target in group.targets):
                return group.scheme
    raise CheckpointError(
        f"{prefix}.weight_scale is there, and no group of config.json's config_groups has it as target"
    )


def _is_name(target: str, prefix: str) -> bool:
    return target == prefix


def _is_pattern(target: str, prefix: str) -> bool:
    return target.startswith("re:") and re.match(target.removeprefix("re:"), prefix) is not None


def _is_class(target: str, prefix: str) -> bool:
    return target == "Linear"


def read_groups(fields: dict[str, Any], where: str) -> tuple[Group, ...]:
    """The groups of a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must.

    The cache of keys and values stays as --kv-cache-dtype and the model's type say, whatever `kv_cache_scheme` does.
    """
    if (fields.get("sparsity_config") or {}).get("format") not in (None, "dense"):
        raise CheckpointError(
            f"{where}: sparsity_config {fields['sparsity_config']['format']!r} cannot be read; {_REMEDY}"
        )
    if (fields.get("transform_config") or {}).get("config_groups"):
        raise CheckpointError(f"{where}: transform_config (rotated weights) is not supported; {_REMEDY}")
    groups = fields.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise CheckpointError(f"{where}: config_groups must name at least one group of layers")
    return tuple(
        _read_group(group, fields.get("format"), f"{where}: config_groups.{name}") for name, group in groups.items()
    )


def _read_group(group: Any, format_of_all: Any, where: str) -> Group:
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise CheckpointError(f"{where}.weights must say how weights are quantized; {_REMEDY}")
    found = group.get("format") or format_of_all
    if found not in FORMATS:
        wanted = ", ".join(FORMATS)
        raise CheckpointError(f"{where}: format {found!r} cannot be read, only {wanted}; {_REMEDY}")
    if group.get("output_activations"):
        raise CheckpointError(f"{where}: output_activations are not supported; {_REMEDY}")
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"{where}.targets must be a list of names, not {targets!r}")
    return Group(tuple(targets), _read_scheme(group["weights"], group.get("input_activations"), str(found), where))


def _read_scheme(weights: dict[str, Any], activations: dict[str, Any] | None, found: str, where: str) -> Scheme:
    bits, kind, symmetric = weights.get("num_bits"), weights.get("type", "int"), weights.get("symmetric", True)
    packed = found == "pack-quantized"
    if type(bits) is not int or bits not in (_PACKED_BITS if packed else (8,)) or (packed and kind != "int"):
        raise CheckpointError(
            f"{where}: weights of {bits} bits, type {kind}, in format {found} cannot be read; {_REMEDY}"
        )
    if not packed and not symmetric:
        raise CheckpointError(f"{where}: weights that are not symmetric can only be read in pack-quantized; {_REMEDY}")
    if activations and packed:
        raise CheckpointError(f"{where}: input_activations beside packed weights are not supported; {_REMEDY}")
    return Scheme(bits, bool(symmetric), _blocks(weights, where), _activations(activations, kind, where))


def _blocks(weights: dict[str, Any], where: str) -> Blocks:
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    if strategy in ("tensor", "channel"):
        return None
    if strategy == "group":
        size = weights.get("group_size")
        if type(size) is int and (size > 0 or size == -1):
            return (1, max(size, 0))
        raise CheckpointError(f"{where}: group_size must be -1 or above 0, not {size!r}")
    if strategy == "block":
        blocks = block_size(weights.get("block_structure"), f"{where}: block_structure")
        if blocks is not None:
            return blocks
    raise CheckpointError(f"{where}: strategy {strategy!r} of weights is not supported; {_REMEDY}")


def _activations(fields: dict[str, Any] | None, kind: str, where: str) -> Literal["as they are", "dynamic", "static"]:
    """Where scales are dynamic, each row of activations gets one of its own, whatever the strategy: what one request
    gets must not depend on others."""
    if not fields:
        return "as they are"
    if fields.get("num_bits") != 8 or fields.get("type", "int") != kind or not fields.get("symmetric", True):
        raise CheckpointError(
            f"{where}: input_activations must be symmetric, of 8 bits and type {kind} like the weights; {_REMEDY}"
        )
    if fields.get("dynamic") not in (True, False, None):
        raise CheckpointError(
            f"{where}: dynamic {fields['dynamic']!r} of input_activations is not supported; {_REMEDY}"
        )
    return "dynamic" if fields.get("dynamic") else "static"
