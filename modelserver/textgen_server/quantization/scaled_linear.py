"""Linear layers over weights of 8 bits, and which of them is the fastest that fits.

The one that is always right is `Dequantizing`; the others are compared with it by the tests.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.native.ops import NativeInt8, NativeInt8Weights, fit
from textgen_server.quantization.scaled import Scaled, as_float, joined, rounded, rounded_in_groups

# Devices from here on multiply numbers of type float8: Ada and Hopper.
_HAS_FLOAT8 = (8, 9)
# cuBLAS wants more rows than that of a product in int8, and features in multiples of 8.
_FEWEST_ROWS, _INT8_MULTIPLE = 17, 8
_FLOAT8_MULTIPLE = 16


def scaled_layers(blocks: Sequence[Scaled], device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Layers that hold the blocks on `device`, as few as can be. See keep_packed.Holder."""
    return [scaled_layer(block, device) for block in joined(blocks)]


def scaled_layer(block: Scaled, device: torch.device) -> nn.Module:
    """x [..., in] -> x W^T [..., out], in the type of x, by the fastest way that there is for `block` on `device`."""
    codes = block.codes.to(device).contiguous()
    held = Scaled(codes, block.scales.to(device), block.group_size, block.first, block.rounding)
    by_rows, rounds = block.scales.shape[1] == 1, block.rounding is not None
    if by_rows and block.codes.dtype == torch.int8:
        if fit(held.scales):
            if block.rounding is None:
                return NativeInt8Weights(held.codes, held.scales)
            return NativeInt8(held.codes, held.scales, block.rounding.scale)
        if rounds and _fits_int8(block, device):
            return Int8Product(held)
    if device.type == "cpu":
        return Dequantizing(held)
    if by_rows and rounds and block.codes.dtype == torch.float8_e4m3fn and _fits_float8(block, device):
        return Float8Product(held)
    if importlib.util.find_spec("triton") is None:
        return Dequantizing(held)
    from textgen_server.quantization.scaled_triton import DequantizingTiles

    return DequantizingTiles(held)


def _fits_int8(block: Scaled, device: torch.device) -> bool:
    return device.type == "cpu" or all(size % _INT8_MULTIPLE == 0 for size in block.codes.shape)


def _fits_float8(block: Scaled, device: torch.device) -> bool:
    return _capability(device) >= _HAS_FLOAT8 and all(size % _FLOAT8_MULTIPLE == 0 for size in block.codes.shape)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


class ScaledLinear(nn.Module):
    """Base: x [..., in] -> x W^T [..., out] in the type of x; W is a `Scaled` on the device of x."""

    def __init__(self, block: Scaled) -> None:
        super().__init__()
        self.block = block
        self.out, self.size = block.codes.shape
        self.input_scale = block.rounding.scale if block.rounding is not None else None
        self.rounded = _rounding_on(block.codes.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.reshape(-1, self.size)).view(*x.shape[:-1], self.out)

    def product(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out]."""
        raise NotImplementedError


def _rounding_on(device: torch.device) -> Callable[[Tensor, torch.dtype, float | None], tuple[Tensor, Tensor]]:
    """The fastest `rounded` for rows on `device`."""
    if device.type == "cpu" or importlib.util.find_spec("triton") is None:
        return rounded
    from textgen_server.quantization import rounding_triton

    return rounding_triton.rounded


class Dequantizing(ScaledLinear):
    """Rounds activations where the block says so, and multiplies what the codes stand for in float32."""

    def product(self, x: Tensor) -> Tensor:
        block = self.block
        values = self._values(x)
        if block.scales.shape[1] == 1:  # fewer multiplications than with every weight
            return (F.linear(values, as_float(block.codes)) * block.scales[:, 0]).to(x.dtype)
        return F.linear(values, block.dequantized()).to(x.dtype)

    def _values(self, x: Tensor) -> Tensor:
        block = self.block
        if block.rounding is None:
            return x.float()
        if block.scales.shape[1] > 1 and self.input_scale is None:
            return rounded_in_groups(x, block.codes.dtype, block.group_size, block.first)
        codes, scales = rounded(x, block.codes.dtype, self.input_scale)
        return as_float(codes) * scales


class Int8Product(ScaledLinear):
    """Rounds activations to int8; the product is exact, in int32."""

    def product(self, x: Tensor) -> Tensor:
        block = self.block
        codes, scales = self.rounded(x, torch.int8, self.input_scale)
        rows = len(x)
        if x.device.type != "cpu" and rows < _FEWEST_ROWS:
            codes = F.pad(codes, (0, 0, 0, _FEWEST_ROWS - rows))
        product = torch._int_mm(codes, block.codes.t())[:rows]
        return (product * scales * block.scales[:, 0]).to(x.dtype)


class Float8Product(ScaledLinear):
    """Rounds activations to float8; the product is one of the GPU's float8 units, scaled by rows on both sides."""

    def product(self, x: Tensor) -> Tensor:
        block = self.block
        codes, scales = self.rounded(x, torch.float8_e4m3fn, self.input_scale)
        # Scales by rows come with results in bfloat16 alone.
        out = torch._scaled_mm(codes, block.codes.t(), scales, block.scales.t(), out_dtype=torch.bfloat16)
        return out.to(x.dtype)
