"""What a model needs to build its layers: where weights come from, how they are cut, applied and attended with."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from textgen_server.attention.base import Attention
from textgen_server.layers.embedding import OutputHead, VocabParallelEmbedding
from textgen_server.layers.partition import Heads, partition
from textgen_server.parallel import Group
from textgen_server.quantization.base import Quantization
from textgen_server.weights.loader import Loader, Part


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
    """Builds parallel layers from checkpoint tensors named as Hugging Face names them."""

    loader: Loader
    group: Group
    quantization: Quantization
    attention: type[Attention]

    def vector(self, name: str) -> Tensor:
        """A whole tensor, the same on every rank (norm weights)."""
        return self.loader.tensor([Part(name)])

    def columns(self, pieces: Sequence[tuple[str, int, int]]) -> nn.Module:
        """Column-parallel linear, several matrices fused: output features are (prefix, start, length) of each piece.
        Biases are taken where the checkpoint has them."""
        weights = [Part(f"{prefix}.weight", 0, start, length) for prefix, start, length in pieces]
        biases = [Part(f"{prefix}.bias", 0, start, length) for prefix, start, length in pieces]
        has_bias = all(part.name in self.loader for part in biases)
        return self.quantization.linear(self.loader, weights, self.loader.tensor(biases) if has_bias else None)

    def rows(self, prefix: str, start: int, length: int) -> nn.Module:
        """Row-parallel linear over the input features start .. start + length."""
        name = f"{prefix}.bias"
        bias = self.vector(name) if name in self.loader else None
        parts = [Part(f"{prefix}.weight", 1, start, length)]
        if self.group.size == 1:
            return self.quantization.linear(self.loader, parts, bias)
        return RowParallelLinear(self.quantization.linear(self.loader, parts, None), bias, self.group)

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
        """The matrix [vocab, hidden] that turns hidden states into logits, cut by rows. Never quantized."""
        return OutputHead(self.loader, name, vocab_size, self.group)
