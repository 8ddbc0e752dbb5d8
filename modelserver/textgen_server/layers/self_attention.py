"""Self-attention as all decoder families have it: project, rotate, attend, project."""

from collections.abc import Sequence

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.attention.native import NativeAttention
from textgen_server.layers.build import Builder, Piece
from textgen_server.layers.partition import Heads
from textgen_server.layers.rotary import rotate
from textgen_server.native.ops import PackedLinear


class SelfAttention(nn.Module):
    """Query, key and value in one matrix; the heads of this rank only.

    `rotary_dim` features of each head turn with the position, none where it is 0; `head_norm` is applied to queries and
    keys before that.
    """

    def __init__(
        self,
        build: Builder,
        heads: Heads,
        spec: AttentionSpec,
        qkv: Sequence[Piece],
        out: str,
        rotary_dim: int,
        head_norm: nn.Module | None = None,
        summed: bool = True,
    ) -> None:
        super().__init__()
        self.head_dim = dim = spec.head_dim
        self.sizes = [heads.q_count, heads.kv_count]
        self.qkv = build.columns(qkv)
        self.out = build.rows(out, heads.q_start * dim, heads.q_count * dim, summed)
        self.attention = build.attention(spec)
        self.rotates = rotary_dim > 0
        self.head_norm = head_norm

    @property
    def native(self) -> tuple[PackedLinear, NativeAttention, PackedLinear] | None:
        """Its parts, where the CPU's kernels have all of them."""
        qkv, out, attention = self.qkv, self.out, self.attention if self.head_norm is None else None
        if isinstance(attention, NativeAttention) and isinstance(qkv, PackedLinear) and isinstance(out, PackedLinear):
            return qkv, attention, out
        return None

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, batch: AttentionBatch, keys: Tensor, values: Tensor
    ) -> Tensor:
        """x [T, hidden] to the same; `rotary` from Rotary.at, keys and values the layer's pools."""
        if native := self.native:
            qkv, attention, out = native
            return attention.between(qkv, out, x, rotary if self.rotates else None, keys, values, batch)
        q_count, kv_count = self.sizes
        heads = self.qkv(x).view(len(x), q_count + 2 * kv_count, self.head_dim)
        qk, v = heads.split([q_count + kv_count, kv_count], dim=1)
        if self.head_norm is not None:
            qk = self.head_norm(qk)
        if not self.rotates or rotary is None:
            q, k = qk.split(self.sizes, dim=1)
            attended = self.attention.forward(q, k, v, keys, values, batch)
        elif self.attention.turns:
            q, k = qk.split(self.sizes, dim=1)
            attended = self.attention.forward_turning(q, k, v, rotary, keys, values, batch)
        else:
            q, k = rotate(qk, *rotary).split(self.sizes, dim=1)
            attended = self.attention.forward(q, k, v, keys, values, batch)
        projected: Tensor = self.out(attended.reshape(len(x), q_count * self.head_dim))
        return projected
