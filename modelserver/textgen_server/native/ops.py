"""The kernels as functions of tensors: float32, on the CPU, the last dimension contiguous."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor, nn

from textgen_server.native.library import kernels


def fit(*tensors: Tensor) -> bool:
    """Are the kernels in use, and can they take these?"""
    return kernels() is not None and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def _kernels() -> ctypes.CDLL:
    library = kernels()
    if library is None:
        raise RuntimeError("the CPU kernels are not in use: ask `fit` first")
    return library


class NativeLinear(nn.Module):
    """x [..., in] -> x W^T + b [..., out], with W [out, in] packed in panels.

    A row's result is the same whatever rows are beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        library = _kernels()
        self.packed = _packed(weight, library.textgen_pack)
        self.features = len(weight)
        self.bias = None if bias is None else bias.contiguous()
        self._multiply = library.textgen_linear

    def forward(self, x: Tensor) -> Tensor:
        return _product(self._multiply, x, self.packed, self.bias, self.features)


class NativeInt8Linear(nn.Module):
    """x [..., in] -> x W^T [..., out] in the type of x, with W = codes [out, in] * scales [out, 1], codes in int8."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        super().__init__()
        library = _kernels()
        self.packed = _packed(codes, library.textgen_pack_int8)
        self.features = len(codes)
        self.scales = scales.flatten().contiguous()
        self._multiply = library.textgen_linear_int8

    def forward(self, x: Tensor) -> Tensor:
        return _product(self._multiply, x.float(), self.packed, self.scales, self.features).to(x.dtype)


def _packed(weight: Tensor, pack: Callable[..., None]) -> Tensor:
    features, depth = weight.shape
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    packed = torch.empty(_kernels().textgen_packed_size(features, depth), dtype=weight.dtype)
    pack(weight.data_ptr(), weight.stride(0), packed.data_ptr(), features, depth)
    return packed


def _product(
    multiply: Callable[..., None], x: Tensor, packed: Tensor, by_feature: Tensor | None, features: int
) -> Tensor:
    out = torch.empty(*x.shape[:-1], features, dtype=torch.float32)
    x = x if x.dim() == 2 and x.stride(1) == 1 else x.contiguous()
    depth = x.shape[-1]
    stride = x.stride(-2) if x.dim() > 1 else depth
    numbers = None if by_feature is None else by_feature.data_ptr()
    multiply(x.data_ptr(), stride, packed.data_ptr(), numbers, out.data_ptr(), out.numel() // features, depth, features)
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight, for rows of x [..., width]."""
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    _kernels().textgen_rms_norm(x.data_ptr(), width, weight.data_ptr(), eps, out.data_ptr(), x.numel() // width, width)
    return out


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., width], with gate and up the halves of the last dimension."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], width, dtype=torch.float32)
    _kernels().textgen_silu_and_multiply(gate_up.data_ptr(), out.data_ptr(), out.numel() // width, width)
    return out


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn x [T, heads, head_dim] in place, as layers.rotary.rotate does; rows of x may lie apart.

    cos and sin: [T, 1, dim], contiguous.
    """
    rows, heads, head_dim = x.shape
    _kernels().textgen_rotate(
        x.data_ptr(), x.stride(0), cos.data_ptr(), sin.data_ptr(), rows, heads, head_dim, cos.shape[-1]
    )
