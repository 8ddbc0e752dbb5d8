"""What a model needs to build its layers: where weights come from, how they are cut, applied and attended with."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from textgen_server.attention.base import Attention
from textgen_server.layers.embedding import OutputHead, VocabParallelEmbedding
from textgen_server.layers.linear import dense
from textgen_server.layers.lora import AdapterRows, LoraLinear
from textgen_server.layers.norm import LayerNorm
from textgen_server.layers.partition import Heads, partition
from textgen_server.parallel import Group
from textgen_server.quantization.base import Quantization
from textgen_server.weights.loader import Loader, Part

Piece = tuple[str, int, int]
"""Output features of a matrix: (prefix of its names, start, length)."""


class RowParallelLinear(nn.Module):
    """Each rank holds some input features; the partial results are summed over the ranks."""

    def __init__(self, inner: nn.Module, bias: Tensor | None, group: Group) -> None:
        super().__init__()
        self.inner = inner
        self.bias = bias
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.group.all_reduce(self.inner(x))
        return out if self.bias is None else out + self.bias


@dataclass(frozen=True)
class Builder:
    """Builds parallel layers from checkpoint tensors named as Hugging Face names them.

    Attributes:
        adapter_rows: shared by the layers, where adapters may be added to them; None where not.
        transposed: matrices are stored as [in, out] (GPT-2).
    """

    loader: Loader
    group: Group
    quantization: Quantization
    attention: type[Attention]
    adapter_rows: AdapterRows | None = None
    transposed: bool = False

    def root(self, name: str, roots: Sequence[str]) -> str:
        """The first of `roots` that the checkpoint puts before `name`; the first of all where it has none of them, so
        that the complaint about what is missing shows the usual name."""
        return next((root for root in roots if root + name in self.loader), roots[0])

    def vector(self, name: str) -> Tensor:
        """A whole tensor, the same on every rank (norm weights)."""
        return self.loader.tensor([Part(name)])

    def layer_norm(self, prefix: str, eps: float) -> LayerNorm:
        """A LayerNorm, with its bias where the checkpoint has one."""
        bias = f"{prefix}.bias"
        return LayerNorm(self.vector(f"{prefix}.weight"), self.vector(bias) if bias in self.loader else None, eps)

    def columns(self, pieces: Sequence[Piece]) -> nn.Module:
        """Column-parallel linear, several pieces fused. Biases are taken where the checkpoint has them."""
        weights = [Part(f"{prefix}.weight", 0, start, length, self.transposed) for prefix, start, length in pieces]
        biases = [Part(f"{prefix}.bias", 0, start, length) for prefix, start, length in pieces]
        has_bias = all(part.name in self.loader for part in biases)
        linear = self.quantization.linear(self.loader, weights, self.loader.tensor(biases) if has_bias else None)
        return self._adaptable(linear, pieces, None)

    def rows(self, prefix: str, start: int, length: int, summed: bool = True) -> nn.Module:
        """Row-parallel linear over the input features start .. start + length. With `summed` off it is this rank's
        part of the sum, for layers that sum more than one at once."""
        name = f"{prefix}.bias"
        bias = self.vector(name) if name in self.loader else None
        parts = [Part(f"{prefix}.weight", 1, start, length, self.transposed)]
        # What is summed over the ranks gets its bias behind the sum, or on one of them.
        own_bias = bias if self.group.size == 1 or (not summed and self.group.rank == 0) else None
        linear = self.quantization.linear(self.loader, parts, own_bias)
        linear = self._adaptable(linear, [(prefix, 0, None)], (start, length))
        return RowParallelLinear(linear, bias, self.group) if summed and self.group.size > 1 else linear

    def _adaptable(
        self, linear: nn.Module, outputs: Sequence[tuple[str, int, int | None]], inputs: tuple[int, int] | None
    ) -> nn.Module:
        return linear if self.adapter_rows is None else LoraLinear(linear, outputs, inputs, self.adapter_rows)

    def heads(self, num_heads: int, num_kv_heads: int) -> Heads:
        """This rank's attention heads."""
        return Heads.of(num_heads, num_kv_heads, self.group)

    def share(self, total: int) -> tuple[int, int]:
        """(start, length) of this rank's part of `total` features."""
        return partition(total, self.group)

    def embedding(self, name: str, vocab_size: int) -> VocabParallelEmbedding:
        """The token embedding [vocab, hidden], cut by rows."""
        return VocabParallelEmbedding(self.loader, name, vocab_size, self.group)

    def output_head(self, name: str, vocab_size: int) -> OutputHead:
        """The matrix [vocab, hidden] that turns hidden states into logits, cut by rows."""

        def apply(weight: Tensor) -> nn.Module:
            return self.quantization.head(weight) or dense(weight)

        return OutputHead(self.loader, name, vocab_size, self.group, apply)
