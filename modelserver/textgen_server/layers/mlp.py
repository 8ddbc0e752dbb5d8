"""Feed-forward layers. With `summed` off, a rank's result is its part of a sum that the caller takes over the ranks."""

import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.layers import fused
from textgen_server.layers.activation import Activation
from textgen_server.layers.build import Builder
from textgen_server.native.ops import PackedLinear, fit, gated_mlp, silu_and_multiply


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one matrix (Shazeer 2020)."""

    def __init__(
        self,
        build: Builder,
        prefix: str,
        intermediate_size: int,
        activation: Activation = F.silu,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
        summed: bool = True,
    ) -> None:
        """`names` of gate, up and down; a gate and an up of one name are the halves of one matrix."""
        super().__init__()
        start, length = build.share(intermediate_size)
        gate, up, down = names
        up_start = start + intermediate_size if gate == up else start
        self.gate_up = build.columns([(f"{prefix}.{gate}", start, length), (f"{prefix}.{up}", up_start, length)])
        self.down = build.rows(f"{prefix}.{down}", start, length, summed)
        self.activation = activation

    @property
    def native(self) -> tuple[PackedLinear, PackedLinear] | None:
        """Its matrices, where the CPU's kernels have all of it."""
        gate_up, down = self.gate_up, self.down
        if self.activation is F.silu and isinstance(gate_up, PackedLinear) and isinstance(down, PackedLinear):
            return gate_up, down
        return None

    def forward(self, x: Tensor) -> Tensor:
        if native := self.native:
            return gated_mlp(*native, x)
        out: Tensor = self.down(self._activate(self.gate_up(x)))
        return out

    def _activate(self, gate_up: Tensor) -> Tensor:
        if self.activation is F.silu and fused.fit(gate_up):
            return fused.silu_and_multiply(gate_up)
        if self.activation is F.silu and fit(gate_up):
            return silu_and_multiply(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.activation(gate) * up


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(
        self,
        build: Builder,
        prefix: str,
        intermediate_size: int,
        activation: Activation,
        names: tuple[str, str],
        summed: bool = True,
    ) -> None:
        """`names` of up and down."""
        super().__init__()
        start, length = build.share(intermediate_size)
        up, down = names
        self.up = build.columns([(f"{prefix}.{up}", start, length)])
        self.down = build.rows(f"{prefix}.{down}", start, length, summed)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out
