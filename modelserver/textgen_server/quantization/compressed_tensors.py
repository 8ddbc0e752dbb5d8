"""Checkpoints of the compressed-tensors library, as LLM Compressor writes them. By the format of a layer's group, a
matrix of `out` rows and `in` columns, with a scale for each of `groups` groups of input features, is stored as

    pack-quantized   weight_packed      int32 [out, in * bits / 32]     codes, packed along the input features
                     weight_zero_point  int32 [out * bits / 32, groups] zeros, packed along the output features, where
                                                                        they are not symmetric
                     weight_g_idx       int32 [in]                      the group of each input feature (act-order)
                     weight_shape       int64 [2]
    int-quantized,   weight             int8 or float8_e4m3fn [out, in]
    float-quantized  input_scale        one, where the scales of activations are static
    all              weight_scale       float [out, groups], [out, 1], [1], or one for each block of rows and columns

`naive-quantized` is either of the latter. Named by registry.py, read through unpacked.Unpacked.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.compression_scheme import Group, read_groups, scheme_of
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.packing import unpack, words_for
from textgen_server.quantization.scaled import Rounding, Scaled
from textgen_server.quantization.scaled_reading import Blocks, check_scaled, read_scale, read_scaled
from textgen_server.quantization.unpacked import Block, Range, check_dtype, check_shape
from textgen_server.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class CompressedTensors:
    """How one checkpoint is packed: which layers are of which group."""

    groups: tuple[Group, ...]

    marks = ("weight_scale",)
    suffixes = (
        "weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape", "input_scale",
        "input_zero_point",
    )  # fmt: skip

    @classmethod
    def from_config(cls, fields: dict[str, Any], where: str) -> "CompressedTensors":
        """Read a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must."""
        return cls(read_groups(fields, where))

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """See unpacked.Packing."""
        if self.kind(stored, prefix) is Scaled:
            return check_scaled(stored, prefix, "weight_scale", self._blocks(prefix))
        return self._packed_shape(stored, prefix)

    def kind(self, stored: Checkpoint, prefix: str) -> type[Block]:
        """See unpacked.Packing."""
        return Grouped if f"{prefix}.weight_packed" in stored else Scaled

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Block:
        """See unpacked.Packing."""
        if self.kind(stored, prefix) is Grouped:
            return self._read_packed(stored, prefix, outputs, inputs)
        blocks, rounding = self._blocks(prefix), self._rounding(stored, prefix)
        return read_scaled(stored, prefix, "weight_scale", blocks, outputs, inputs, rounding)

    def _blocks(self, prefix: str) -> Blocks:
        return scheme_of(self.groups, prefix).blocks

    def _rounding(self, stored: Checkpoint, prefix: str) -> Rounding | None:
        activations = scheme_of(self.groups, prefix).activations
        if activations == "static":
            return Rounding(read_scale(stored, f"{prefix}.input_scale"))
        return Rounding() if activations == "dynamic" else None

    def _packed_shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        scheme, name = scheme_of(self.groups, prefix), f"{prefix}.weight_shape"
        check_dtype(stored, f"{prefix}.weight_packed", torch.int32)
        if name not in stored or stored.shape(name) != (2,):
            raise CheckpointError(
                f"{name} must be two numbers, the shape of {prefix}.weight_packed once it is unpacked"
            )
        out, size = (int(number) for number in stored.tensor(name))
        groups = self._num_groups(prefix, size)
        because = f"{scheme.bits} bits in {groups} groups make it for {size} inputs and {out} outputs"
        check_shape(stored, f"{prefix}.weight_packed", (out, words_for(size, scheme.bits)), because)
        check_shape(stored, f"{prefix}.weight_scale", (out, groups), because)
        if not scheme.symmetric:
            check_dtype(stored, f"{prefix}.weight_zero_point", torch.int32)
            check_shape(stored, f"{prefix}.weight_zero_point", (words_for(out, scheme.bits), groups), because)
        return out, size

    def _num_groups(self, prefix: str, size: int) -> int:
        return -(-size // self._group_size(prefix, size))

    def _group_size(self, prefix: str, size: int) -> int:
        blocks = scheme_of(self.groups, prefix).blocks
        return (blocks[1] if blocks else 0) or size

    def _read_packed(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Grouped:
        scheme, size = scheme_of(self.groups, prefix), self._packed_shape(stored, prefix)[1]
        scales = stored.slice(f"{prefix}.weight_scale", 0, *outputs).t()
        if scheme.symmetric:
            zeros = torch.full(scales.shape, 1 << (scheme.bits - 1), dtype=torch.uint8)
        else:
            zeros = unpack(stored.tensor(f"{prefix}.weight_zero_point"), scheme.bits, *outputs).t()
        words = stored.slice(f"{prefix}.weight_packed", 0, *outputs)
        groups = self._groups(stored, prefix, size)[inputs[0] : sum(inputs)]
        return Grouped(unpack(words.t(), scheme.bits, *inputs), scales, zeros, groups, scheme.bits).compact()

    def _groups(self, stored: Checkpoint, prefix: str, size: int) -> Tensor:
        """The group of each input feature; -1 for all says nothing."""
        name = f"{prefix}.weight_g_idx"
        if name in stored and (groups := stored.tensor(name).long()).ne(-1).any():
            check_shape(stored, name, (size,), f"{prefix} has {size} inputs")
            count = self._num_groups(prefix, size)
            if groups.min() < 0 or groups.max() >= count:
                raise CheckpointError(
                    f"{name} has groups from {groups.min()} to {groups.max()}, and {prefix}.weight_scale has {count} "
                    "groups: the checkpoint is damaged"
                )
            return groups
        return torch.arange(size) // self._group_size(prefix, size)
