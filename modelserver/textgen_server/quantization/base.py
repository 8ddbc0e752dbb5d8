"""The protocol of quantization methods: how the weights of one linear layer are read and applied."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from textgen_server.weights.loader import Loader, Part


class Quantization(Protocol):
    """A method. One instance builds all linear layers of a model."""

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """A module that maps [..., in] to [..., out] with the weight rows of `parts`, joined.

        Args:
            parts: slices of weight matrices [out, in] in the checkpoint, by their full tensor names.
            bias: [out] on the device, or None.
        """
        ...

    def head(self, weight: Tensor) -> nn.Module | None:
        """The same for the output head, whose `weight` [out, in] is on the device; None leaves it in full precision, as
        most do: it chooses the token."""
        return None
