"""Methods of 8 bits that quantize a checkpoint in full precision, one layer at a time, on the device. Named by
registry.py."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textgen_server.native.ops import fit, rounded_rows
from textgen_server.quantization.base import Quantization
from textgen_server.quantization.keep_packed import side_by_side
from textgen_server.quantization.scaled import Rounding, Scaled, rounded
from textgen_server.quantization.scaled_linear import scaled_layer
from textgen_server.weights.loader import Loader, Part


class _ByRows(Quantization):
    """Each row of a matrix is rounded to codes of type `dtype` by its own largest value."""

    dtype: torch.dtype
    rounding: Rounding | None

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        return side_by_side([self._rounded(loader.tensor(parts))], bias)

    def _rounded(self, weight: Tensor) -> nn.Module:
        native = self.dtype == torch.int8 and fit(weight)
        codes, scales = rounded_rows(weight) if native else rounded(weight, self.dtype)
        return scaled_layer(Scaled(codes, scales, codes.shape[1], 0, self.rounding), codes.device)


class Float8(_ByRows):
    """Weights and activations in float8_e4m3fn, each row with a scale of its own (W8A8, dynamic)."""

    dtype = torch.float8_e4m3fn
    rounding = Rounding()


class Int8(_ByRows):
    """Weights and activations in int8, each row with a scale of its own (W8A8, dynamic); the output head, too."""

    dtype = torch.int8
    rounding = Rounding()

    def head(self, weight: Tensor) -> nn.Module:
        """See quantization.base.Quantization."""
        return self._rounded(weight)


class Int8Weights(_ByRows):
    """Weights in int8, activations as they are: what EETQ does."""

    dtype = torch.int8
    rounding = None
