"""Feed-forward layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.layers.build import Builder


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one matrix (SwiGLU, Shazeer 2020)."""

    def __init__(self, build: Builder, prefix: str, intermediate_size: int) -> None:
        super().__init__()
        start, length = build.share(intermediate_size)
        self.gate_up = build.columns([(f"{prefix}.gate_proj", start, length), (f"{prefix}.up_proj", start, length)])
        self.down = build.rows(f"{prefix}.down_proj", start, length)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
