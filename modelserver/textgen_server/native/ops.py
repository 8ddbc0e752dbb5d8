"""The kernels as functions of tensors: float32, on the CPU, the last dimension contiguous."""

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor, nn

from textgen_server.native.library import kernels
from textgen_server.native.memory import zeros


def fit(*tensors: Tensor) -> bool:
    """Are the kernels in use, and can they take these?"""
    return kernels() is not None and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def _kernels() -> ctypes.CDLL:
    library = kernels()
    if library is None:
        raise RuntimeError("the CPU kernels are not in use: ask `fit` first")
    return library


class Linear(ctypes.Structure):
    """Mirrors TextgenLinear of kernels.h, which says what the kinds are."""

    FLOAT32, FLOAT16, BFLOAT16, BLOCKS8, BLOCKS4, INT8_WEIGHTS, INT8 = range(7)

    _fields_ = (
        *((name, c_void_p) for name in ("packed", "scales", "bias", "corrections")),
        *((name, c_int64) for name in ("kind", "depth", "features")),
        ("input_scale", c_float),
    )


class Layer(ctypes.Structure):
    """Mirrors TextgenLayer of kernels.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("key_pool", "value_pool", "call")),
        ("attention_eps", c_float),
        ("mlp_eps", c_float),
    )


class PackedLinear(nn.Module):
    """x [..., in] -> x W^T + b [..., out] in the type of x, with W [out, in] packed in panels.

    A row's result is the same whatever rows are beside it.
    """

    def __init__(self, kind: int, shape: torch.Size, packed: Tensor, **tensors: Tensor | None) -> None:
        super().__init__()
        self._tensors = {"packed": packed, **tensors}
        self.features, self.depth = shape
        self.linear = Linear(
            kind=kind,
            depth=self.depth,
            features=self.features,
            **{name: t.data_ptr() for name, t in self._tensors.items() if t is not None},
        )
        self.address = ctypes.addressof(self.linear)
        self._multiply = _kernels().textgen_linear

    def plus(self, bias: Tensor) -> "PackedLinear":
        """This layer, which adds `bias` [out] from now on."""
        bias = self._tensors["bias"] = bias.float().contiguous()
        self.linear.bias = bias.data_ptr()
        return self

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = rows_of(x.float())
        out = torch.empty(*x.shape[:-1], self.features, dtype=torch.float32)
        stride = x.stride(-2) if x.dim() > 1 else self.depth
        self._multiply(self.address, x.data_ptr(), stride, out.data_ptr(), out.numel() // self.features)
        return out if dtype == torch.float32 else out.to(dtype)


def rows_of(x: Tensor) -> Tensor:
    """x, or a copy, with rows that may lie apart if there are no dimensions before them."""
    return x if x.dim() == 2 and x.stride(1) == 1 else x.contiguous()


class NativeLinear(PackedLinear):
    """W in float32, in as few bytes as give back exactly its numbers (native/compact.cpp)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        library, shape = _kernels(), weight.shape
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        matrix = weight.data_ptr(), weight.stride(0)
        kind = library.textgen_smallest_form(*matrix, *shape)
        packed = zeros((library.textgen_packed_bytes(kind, *shape),), torch.uint8)
        library.textgen_pack(kind, *matrix, packed.data_ptr(), *shape)
        super().__init__(kind, shape, packed, bias=None if bias is None else bias.contiguous())


class NativeInt8Weights(PackedLinear):
    """W = codes [out, in] * scales [out, 1], codes in int8; products in float32."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        library, codes, shape = _kernels(), codes.contiguous(), codes.shape
        packed = zeros((library.textgen_packed_bytes(Linear.INT8_WEIGHTS, *shape),), torch.int8)
        library.textgen_pack_int8_weights(codes.data_ptr(), shape[1], packed.data_ptr(), *shape)
        super().__init__(Linear.INT8_WEIGHTS, shape, packed, scales=scales.flatten().contiguous())


class NativeInt8(PackedLinear):
    """The same with products in int8: each row of x is rounded as quantization.scaled.rounded does it, by
    `input_scale` or by its own largest number."""

    def __init__(self, codes: Tensor, scales: Tensor, input_scale: float | None) -> None:
        library, codes = _kernels(), codes.contiguous()
        features, depth = codes.shape
        packed = zeros((library.textgen_packed_int8_size(features, depth),), torch.int8)
        columns = library.textgen_packed_bytes(Linear.INT8_WEIGHTS, features, 1)  # those of all panels
        corrections = torch.empty(columns, dtype=torch.int32)
        library.textgen_pack_int8(codes.data_ptr(), depth, packed.data_ptr(), corrections.data_ptr(), features, depth)
        flat = scales.flatten().contiguous()
        super().__init__(Linear.INT8, codes.shape, packed, scales=flat, corrections=corrections)
        self.linear.input_scale = input_scale or 0.0


def add_and_rms_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x + added, that / rms(that) * weight), for rows of x [..., width]; nothing is added where `added` is None."""
    x = x.contiguous()
    both, out, width = x if added is None else torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    more = None if added is None else added.contiguous().data_ptr()
    _kernels().textgen_rms_norm(
        x.data_ptr(), more, both.data_ptr(), weight.data_ptr(), eps, out.data_ptr(), x.numel() // width, width
    )
    return both, out


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., width], with gate and up the halves of the last dimension."""
    gate_up = gate_up.contiguous()
    width = gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], width, dtype=torch.float32)
    _kernels().textgen_silu_and_multiply(gate_up.data_ptr(), out.data_ptr(), width, out.numel() // width, width)
    return out


def gated_mlp(gate_up: PackedLinear, down: PackedLinear, x: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)) [T, out] of x [T, in], in one call."""
    x, out = rows_of(x), torch.empty(len(x), down.features, dtype=torch.float32)
    _kernels().textgen_gated_mlp(gate_up.address, down.address, x.data_ptr(), x.stride(0), out.data_ptr(), len(x))
    return out


def run_layers(layers: "ctypes.Array[Layer]", x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(x, added) [T, hidden] each, whose sum is what the last of `layers` gives where the first gets x [T, hidden],
    which is overwritten; `rotary` of Rotary.at."""
    (cos, sin), added = rotary, torch.empty_like(x)
    _kernels().textgen_layers(
        layers, len(layers), x.data_ptr(), added.data_ptr(), cos.data_ptr(), sin.data_ptr(), cos.shape[-1], len(x)
    )
    return x, added


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes [N, width] of rows of x [N, width], each rounded by its own largest number, and the scales [N, 1]."""
    x, codes, scales = rows_of(x), torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), 1)
    _kernels().textgen_round_rows(x.data_ptr(), x.stride(0), codes.data_ptr(), scales.data_ptr(), len(x), x.shape[1])
    return codes, scales


def argmax(x: Tensor) -> Tensor:
    """x.argmax(-1) [N] of x [N, width]."""
    x, places = x.contiguous(), torch.empty(len(x), dtype=torch.int64)
    _kernels().textgen_argmax(x.data_ptr(), places.data_ptr(), len(x), x.shape[1])
    return places


def log_sum_exp(x: Tensor) -> Tensor:
    """x.logsumexp(-1) [N] of x [N, width]."""
    x, sums = x.contiguous(), torch.empty(len(x), dtype=torch.float32)
    _kernels().textgen_log_sum_exp(x.data_ptr(), sums.data_ptr(), len(x), x.shape[1])
    return sums


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn x [T, heads, head_dim] in place, as layers.rotary.rotate does; rows of x may lie apart.

    cos and sin: [T, 1, dim], contiguous.
    """
    rows, heads, head_dim = x.shape
    _kernels().textgen_rotate(
        x.data_ptr(), x.stride(0), cos.data_ptr(), sin.data_ptr(), rows, heads, head_dim, cos.shape[-1]
    )
