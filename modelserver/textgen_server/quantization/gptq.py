"""Checkpoints of GPTQ (Frantar et al. 2022), as AutoGPTQ and GPTQModel write them.

A matrix of `in` rows and `out` columns, here with p numbers to a word, is stored as

    qweight  int32 [in / p, out]          codes, packed along the input features
    qzeros   int32 [groups, out / p]      zeros, packed along the output features; format "gptq": each less one
    scales   float [groups, out]
    g_idx    int32 [in]                   the group of each input feature; may be absent without act-order

Named by registry.py, read through unpacked.Unpacked.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.packing import unpack, words_for
from textgen_server.quantization.unpacked import (
    Range,
    check_dtype,
    check_shape,
    matrix_shape,
    whole_group_size,
    whole_number,
)
from textgen_server.weights.checkpoint import Checkpoint

BITS = (2, 3, 4, 8)
_REMEDY = "serve a checkpoint in format gptq or gptq_v2, or the original model with --quantize bitsandbytes-nf4"


@dataclass(frozen=True)
class Gptq:
    """How one checkpoint is packed.

    Attributes:
        bits: width of a code.
        group_size: input features that share a scale; -1 for all.
        zeros_less_one: zeros are stored less one (format "gptq", not "gptq_v2").
    """

    bits: int
    group_size: int
    zeros_less_one: bool

    marks = ("qweight",)
    suffixes = ("qweight", "qzeros", "scales", "g_idx")

    @classmethod
    def from_config(cls, fields: dict[str, Any], where: str) -> "Gptq":
        """Read a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must."""
        bits = whole_number(fields, where, ("bits",))
        if bits not in BITS:
            raise CheckpointError(f"{where}: bits of GPTQ must be 2, 3, 4 or 8, not {bits}; {_REMEDY}")
        group_size = whole_group_size(fields, where)
        _check_layers_are_alike(fields, where)
        return cls(bits, group_size, _format(fields, where) == "gptq")

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """See unpacked.Packing."""
        for name in ("qweight", "qzeros"):
            check_dtype(stored, f"{prefix}.{name}", torch.int32)
        (groups, out), rows = matrix_shape(stored, f"{prefix}.scales"), matrix_shape(stored, f"{prefix}.qweight")[0]
        size = stored.shape(f"{prefix}.g_idx")[0] if f"{prefix}.g_idx" in stored else rows * 32 // self.bits
        because = f"{self.bits} bits in groups of {self.group_size} make it for {size} inputs and {out} outputs"
        check_shape(stored, f"{prefix}.qweight", (words_for(size, self.bits), out), because)
        check_shape(stored, f"{prefix}.qzeros", (groups, words_for(out, self.bits)), because)
        check_shape(stored, f"{prefix}.scales", (self._num_groups(size), out), because)
        return out, size

    def kind(self, stored: Checkpoint, prefix: str) -> type[Grouped]:
        """See unpacked.Packing."""
        return Grouped

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Grouped:
        """See unpacked.Packing."""
        groups = self._groups(stored, prefix)[inputs[0] : sum(inputs)]
        codes = stored.slice(f"{prefix}.qweight", 1, *outputs)
        return Grouped(
            unpack(codes, self.bits, *inputs),
            stored.slice(f"{prefix}.scales", 1, *outputs),
            self._zeros(stored.tensor(f"{prefix}.qzeros"), *outputs),
            groups,
            self.bits,
        ).compact()

    def _num_groups(self, size: int) -> int:
        return 1 if self.group_size == -1 else -(-size // self.group_size)

    def _groups(self, stored: Checkpoint, prefix: str) -> Tensor:
        """The group of each input feature. Files without act-order may have a g_idx of zeros that means nothing."""
        name = f"{prefix}.g_idx"
        size = self.shape(stored, prefix)[1]
        if name in stored:
            groups = stored.tensor(name).long()
            if groups.min() < 0 or groups.max() >= self._num_groups(size):
                raise CheckpointError(
                    f"{name} has groups from {groups.min()} to {groups.max()}, and {prefix}.scales "
                    f"has {self._num_groups(size)} groups: the checkpoint is damaged"
                )
            if groups.any():
                return groups
        return torch.arange(size) // (size if self.group_size == -1 else self.group_size)

    def _zeros(self, words: Tensor, start: int, length: int) -> Tensor:
        """uint8 [groups, length]."""
        if not self.zeros_less_one:
            return unpack(words.t(), self.bits, start, length).t()
        if 32 % self.bits == 0:
            # One was taken from every number of a word at once, and a zero of 0 borrowed from the number above it.
            ones = sum(1 << shift for shift in range(0, 32, self.bits))
            return unpack((words + ones).t(), self.bits, start, length).t()
        return (unpack(words.t(), self.bits, start, length).t() + 1) & ((1 << self.bits) - 1)


def _format(fields: dict[str, Any], where: str) -> str:
    """ "gptq" or "gptq_v2"; newer files say `format`, older ones `checkpoint_format`, the oldest nothing."""
    name = "checkpoint_format" if fields.get("checkpoint_format") is not None else "format"
    found = fields.get(name) or "gptq"
    if fields.get("is_marlin_format"):
        name, found = "is_marlin_format", True
    if found not in ("gptq", "gptq_v2"):
        raise CheckpointError(f"{where}: {name} {found!r} cannot be read; {_REMEDY}")
    if fields.get("pack_dtype") not in (None, "int32"):
        raise CheckpointError(f"{where}: pack_dtype {fields['pack_dtype']!r} cannot be read, only 'int32'; {_REMEDY}")
    return str(found)


def _check_layers_are_alike(fields: dict[str, Any], where: str) -> None:
    """`dynamic` maps patterns of names to other settings; with "-:" before it, to none: such layers are not quantized,
    which their tensors tell."""
    dynamic = fields.get("dynamic") or {}
    for pattern, settings in dynamic.items():
        if not pattern.startswith("-:") and {"bits", "group_size"} & set(settings or {}):
            raise CheckpointError(
                f"{where}: dynamic gives other bits or group sizes to {pattern!r}, which cannot be read; {_REMEDY}"
            )
