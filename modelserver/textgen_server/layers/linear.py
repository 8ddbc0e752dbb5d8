"""Linear layers over full-precision weights. Quantization methods bring their own (quantization/)."""

import importlib.util
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.native.ops import NativeLinear, fit
from textgen_server.quantization.base import Quantization
from textgen_server.weights.loader import Loader, Part

# oneDNN's blocked weight layout depends on the expected number of rows; this one was best or near it from 1 to 512.
PACKING_ROWS = 32


class Linear(nn.Module):
    """x [..., in] -> x W^T + b [..., out], with W [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(nn.Module):
    """The same on a CPU without our kernels, with the weight in oneDNN's own layout: about twice as fast as F.linear on
    few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKING_ROWS)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Is the weight of such a layer copied into another layout?"""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


def dense(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The fastest full-precision linear layer for where the weight is."""
    if fit(weight):
        return NativeLinear(weight, bias)
    if weight.is_cuda and importlib.util.find_spec("triton") is not None:
        from textgen_server.layers.skinny import SkinnyLinear  # needs Triton

        if SkinnyLinear.fits(weight):
            return SkinnyLinear(weight, bias)
    return PackedLinear(weight, bias) if can_pack(weight.device, weight.dtype) else Linear(weight, bias)


class FullPrecision(Quantization):
    """The quantization method that quantizes nothing."""

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        packs = can_pack(loader.device, loader.dtype)
        return dense(loader.passing(parts) if packs else loader.tensor(parts), bias)
