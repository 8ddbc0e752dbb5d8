"""Checkpoints in float8 with a quantization_config of their own: `fp8`, as transformers and AutoFP8 write it, and
`fbgemm_fp8`. A matrix is stored as

    weight            float8_e4m3fn [out, in]
    weight_scale_inv  float32, one for each block of weight_block_size; or weight_scale, one for all or for each row
    activation_scale  float32, one; or input_scale, where activation_scheme is "static"

Both names of scales mean what a code of one stands for. Named by registry.py, read through unpacked.Unpacked.
"""

from dataclasses import dataclass
from typing import Any

from textgen_server.errors import CheckpointError
from textgen_server.quantization.scaled import Rounding, Scaled
from textgen_server.quantization.scaled_reading import Blocks, check_scaled, read_scale, read_scaled
from textgen_server.quantization.unpacked import Range
from textgen_server.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Float8Checkpoint:
    """How one checkpoint is packed.

    Attributes:
        blocks: rows and columns that share a scale.
        static: activations have scales in the checkpoint.
    """

    blocks: Blocks
    static: bool

    marks = ("weight_scale_inv", "weight_scale")
    suffixes = ("weight", "weight_scale_inv", "weight_scale", "activation_scale", "input_scale")

    @classmethod
    def from_config(cls, fields: dict[str, Any], where: str) -> "Float8Checkpoint":
        """Read a `quantization_config`; `where` names it in complaints. Raises CheckpointError as it must.

        The upper bound that fbgemm_fp8 has for scales of activations is not used: it cuts off large values.
        """
        scheme = str(fields.get("activation_scheme") or "dynamic").lower()
        if scheme not in ("dynamic", "static"):
            raise CheckpointError(f"{where}: activation_scheme must be 'dynamic' or 'static', not {scheme!r}")
        if fields.get("fmt") not in (None, "e4m3"):
            raise CheckpointError(f"{where}: fmt {fields['fmt']!r} cannot be read, only 'e4m3'")
        return cls(block_size(fields.get("weight_block_size"), f"{where}: weight_block_size"), scheme == "static")

    def shape(self, stored: Checkpoint, prefix: str) -> tuple[int, int]:
        """See unpacked.Packing."""
        return check_scaled(stored, prefix, self._scales(stored, prefix), self.blocks)

    def kind(self, stored: Checkpoint, prefix: str) -> type[Scaled]:
        """See unpacked.Packing."""
        return Scaled

    def read(self, stored: Checkpoint, prefix: str, outputs: Range, inputs: Range) -> Scaled:
        """See unpacked.Packing."""
        scales = self._scales(stored, prefix)
        return read_scaled(stored, prefix, scales, self.blocks, outputs, inputs, self._rounding(stored, prefix))

    def _scales(self, stored: Checkpoint, prefix: str) -> str:
        return next(mark for mark in self.marks if f"{prefix}.{mark}" in stored)

    def _rounding(self, stored: Checkpoint, prefix: str) -> Rounding:
        if not self.static:
            return Rounding()
        name = f"{prefix}.input_scale"
        return Rounding(read_scale(stored, name if name in stored else f"{prefix}.activation_scale"))


def block_size(value: object, where: str) -> Blocks:
    """Two whole numbers above 0, or None. Raises CheckpointError, which names `where`, when it is something else."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    raise CheckpointError(f"{where} must be two whole numbers above 0, not {value!r}")
