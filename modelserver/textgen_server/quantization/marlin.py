"""Checkpoints in the layout of Marlin's kernel (Frantar et al. 2024): 4 bits, symmetric. A matrix is stored as

    B   int32 [in / 16, out * 2]    codes, 8 to a word, the lowest bits first
    s   float [groups, out]         scales

in the order in which the threads of a GPU's warp multiply them. The 1024 codes of 16 inputs and 64 outputs lie
together; with the bits of a code's place among them called t9 ... t0, its input and output are, from the highest bit,

    input   t0 t6 t5 t2             output   t4 t3 t1 t9 t8 t7

The scales of 64 outputs are an 8 by 8 matrix the other way round; where there is one group, those of 32 outputs are
four by four pairs the other way round. Named by registry.py, read through unpacked.Unpacked.
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

_BITS = 4
# Inputs and outputs whose codes lie together, and the words that hold them.
_INPUTS, _OUTPUTS, _WORDS = 16, 64, 128
_REMEDY = "serve a checkpoint in gptq, or the original model with --quantize bitsandbytes-nf4"


@dataclass(frozen=True)
class Marlin:
    """How one checkpoint is packed. `group_size` input features share a scale; -1 for all."""

    group_size: int

    marks = ("B",)
    suffixes = ("B", "s", "workspace")

    @classmethod
    def from_config(cls, fields: dict[str, Any], where: str) -> "Marlin":
        """Read a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must."""
        bits = whole_number(fields, where, ("bits",), 4)
        if bits != _BITS:
            raise CheckpointError(f"{where}: bits of Marlin must be 4, not {bits}; {_REMEDY}")
        group_size = whole_group_size(fields, where)
        if fields.get("desc_act") or not fields.get("sym", True):
            raise CheckpointError(f"{where}: desc_act and zeros cannot be in Marlin's layout; {_REMEDY}")
        return cls(group_size)

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """See unpacked.Packing."""
        check_dtype(stored, f"{prefix}.B", torch.int32)
        rows, words = matrix_shape(stored, f"{prefix}.B")
        size, out = rows * _INPUTS, words // 2
        if out % _OUTPUTS:
            raise CheckpointError(f"{prefix}.B has {out} outputs, which is no multiple of {_OUTPUTS}: it is damaged")
        groups = -(-size // self._group(size))
        because = f"groups of {self.group_size} make it for {size} inputs and {out} outputs"
        check_shape(stored, f"{prefix}.s", (groups, out), because)
        return out, size

    def kind(self, stored: Checkpoint, prefix: str) -> type[Grouped]:
        """See unpacked.Packing."""
        return Grouped

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Grouped:
        """See unpacked.Packing."""
        size = self.shape(stored, prefix)[1]
        scales = _scales(stored.tensor(f"{prefix}.s")).narrow(1, *outputs)
        zeros = torch.full(scales.shape, 1 << (_BITS - 1), dtype=torch.uint8)
        groups = torch.arange(inputs[0], sum(inputs)) // self._group(size)
        codes = _codes(stored.tensor(f"{prefix}.B"), outputs, inputs)
        return Grouped(codes, scales, zeros, groups, _BITS).compact()

    def _group(self, size: int) -> int:
        return size if self.group_size == -1 else self.group_size


def _codes(words: Tensor, outputs: Range, inputs: Range) -> Tensor:
    """uint8 [inputs, outputs] of what `words` hold."""
    top, left = inputs[0] // _INPUTS, outputs[0] // _OUTPUTS
    bottom, right = -(-sum(inputs) // _INPUTS), -(-sum(outputs) // _OUTPUTS)
    covered = words[top:bottom, left * _WORDS : right * _WORDS]
    places = unpack(covered.t(), _BITS, 0, (right - left) * _INPUTS * _OUTPUTS).t()
    # t9 t8 t7, t6 t5, t4 t3, t2, t1, t0
    bits = places.reshape(bottom - top, right - left, 8, 4, 4, 2, 2, 2)
    codes = bits.permute(0, 7, 3, 5, 1, 4, 6, 2).reshape((bottom - top) * _INPUTS, (right - left) * _OUTPUTS)
    return codes.narrow(0, inputs[0] - top * _INPUTS, inputs[1]).narrow(1, outputs[0] - left * _OUTPUTS, outputs[1])


def _scales(stored: Tensor) -> Tensor:
    """[groups, out], by outputs in order."""
    groups, out = stored.shape
    if groups > 1:
        return stored.reshape(groups, -1, 8, 8).transpose(2, 3).reshape(groups, out)
    return stored.reshape(-1, 4, 4, 2).transpose(1, 2).reshape(groups, out)
