"""The course of a decoder. Families set its parts."""

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch
from textgen_server.layers.norm import Norm, Stream
from textgen_server.layers.rotary import Rotary
from textgen_server.models.base import LayerCache


class Decoder(nn.Module):
    """Embedding, layers one after another, a norm, and the output head.

    Attributes:
        rotary: None where the layers know positions otherwise.
    """

    embedding: nn.Module
    rotary: Rotary | None
    layers: nn.ModuleList
    norm: Norm
    head: nn.Module

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens [T] at positions [T] -> what the first layer gets, [T, hidden]."""
        out: Tensor = self.embedding(tokens)
        return out

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        """See models.base.CausalModel."""
        rotary = None if self.rotary is None else self.rotary.at(positions)
        return self.norm.after(self.through(self.embed(tokens, positions), rotary, batch, caches))[1]

    def through(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, batch: AttentionBatch, caches: list[LayerCache]
    ) -> Stream:
        """What the last layer gives where the first gets x [T, hidden], which may be overwritten."""
        stream: Stream = (x, None)
        for layer, cache in zip(self.layers, caches, strict=True):
            stream = layer(stream, rotary, batch, cache)
        return stream

    def logits(self, hidden: Tensor) -> Tensor:
        """See models.base.CausalModel."""
        out: Tensor = self.head(hidden)
        return out
