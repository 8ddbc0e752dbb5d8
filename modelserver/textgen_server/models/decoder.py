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
        stream: Stream = (self.embed(tokens, positions), None)
        rotary = None if self.rotary is None else self.rotary.at(positions)
        for layer, cache in zip(self.layers, caches, strict=True):
            stream = layer(stream, rotary, batch, cache)
        return self.norm.after(stream)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        """See models.base.CausalModel."""
        out: Tensor = self.head(hidden)
        return out
