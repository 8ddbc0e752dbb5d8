"""Checkpoints of AWQ (Lin et al. 2023), in the format "gemm" of AutoAWQ.

A matrix of `in` rows and `out` columns is stored as

    qweight  int32 [in, out / 8]          codes of 4 bits, packed along the output features
    qzeros   int32 [groups, out / 8]      zeros, packed like the codes
    scales   float [groups, out]

with the columns of a word in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits. Named by registry.py, read through
unpacked.Unpacked.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.packing import unpack
from textgen_server.quantization.unpacked import (
    Range,
    check_dtype,
    check_shape,
    matrix_shape,
    whole_group_size,
    whole_number,
)
from textgen_server.weights.checkpoint import Checkpoint

_PER_WORD = 8
# Where in a word column 0, 1, 2, ... is.
_PLACES = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
_REMEDY = "serve a checkpoint of 4 bits in format gemm, or the original model with --quantize bitsandbytes-nf4"


@dataclass(frozen=True)
class Awq:
    """How one checkpoint is packed. `group_size` input features share a scale; -1 for all."""

    group_size: int

    bits = 4
    marks = ("qweight",)
    suffixes = ("qweight", "qzeros", "scales")

    @classmethod
    def from_config(cls, fields: dict[str, Any], where: str) -> "Awq":
        """Read a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must."""
        bits = whole_number(fields, where, ("bits", "w_bit"))
        if bits != cls.bits:
            raise CheckpointError(f"{where}: bits of AWQ must be 4, not {bits}; {_REMEDY}")
        group_size = whole_group_size(fields, where, ("group_size", "q_group_size"))
        name = next((name for name in ("version", "format", "checkpoint_format") if fields.get(name)), "version")
        if str(fields.get(name, "gemm")).lower() != "gemm":
            raise CheckpointError(f"{where}: {name} {fields[name]!r} cannot be read; {_REMEDY}")
        return cls(group_size)

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """See unpacked.Packing."""
        for name in ("qweight", "qzeros"):
            check_dtype(stored, f"{prefix}.{name}", torch.int32)
        size, words = matrix_shape(stored, f"{prefix}.qweight")
        out, groups = words * _PER_WORD, 1 if self.group_size == -1 else -(-size // self.group_size)
        because = f"4 bits in groups of {self.group_size} make it for {size} inputs and {out} outputs"
        check_shape(stored, f"{prefix}.qzeros", (groups, words), because)
        check_shape(stored, f"{prefix}.scales", (groups, out), because)
        return out, size

    def kind(self, stored: Checkpoint, prefix: str) -> type[Grouped]:
        """See unpacked.Packing."""
        return Grouped

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Grouped:
        """See unpacked.Packing."""
        size = self.shape(stored, prefix)[1]
        group_size = size if self.group_size == -1 else self.group_size
        return Grouped(
            _columns(stored.slice(f"{prefix}.qweight", 0, *inputs), *outputs),
            stored.slice(f"{prefix}.scales", 1, *outputs),
            _columns(stored.tensor(f"{prefix}.qzeros"), *outputs),
            torch.arange(inputs[0], sum(inputs)) // group_size,
            self.bits,
        ).compact()


def _columns(words: Tensor, start: int, length: int) -> Tensor:
    """Columns `start` to `start + length` of the matrix in `words` [rows, out / 8]: uint8 [rows, length]."""
    first, last = start // _PER_WORD, -(-(start + length) // _PER_WORD)
    stored = unpack(words.t(), Awq.bits, first * _PER_WORD, (last - first) * _PER_WORD)
    in_order = stored.view(-1, _PER_WORD, stored.shape[1])[:, _PLACES].flatten(0, 1)
    return in_order[start - first * _PER_WORD :][:length].t()
