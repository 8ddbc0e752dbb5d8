"""The methods of the bitsandbytes library. Weights are quantized on the device as they load, one layer at a time.

Loaded through the registry by runner/load.py, and only when asked for: the library is an optional dependency.
"""

import logging
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from textgen_server.quantization.base import Quantization
from textgen_server.weights.loader import Loader, Part

# While it is imported on a CPU, the library recommends a package that downloads compiled code. It has what we use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import bitsandbytes as bnb  # noqa: E402

# Values that share one scale in the 4-bit methods; the library's default.
BLOCK = 64
# Rows that the library's bfloat16 kernel for CPUs takes at a time.
CPU_PACKING_ROWS = 32
# Activations from here on are not rounded to 8 bits (Dettmers et al. 2022, section 3.2).
OUTLIER_THRESHOLD = 6.0


class Int8(Quantization):
    """LLM.int8: see `Int8Linear`."""

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        return Int8Linear(loader.tensor(parts), bias)


class FourBit(Quantization):
    """Base of the 4-bit methods, which differ in the 16 values that a code can stand for: see `FourBitLinear`."""

    values: ClassVar[str]

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        return FourBitLinear(loader.tensor(parts), bias, self.values)


class NormalFloat4(FourBit):
    """Values that are equally likely among normally distributed weights (Dettmers et al. 2023, QLoRA)."""

    values = "nf4"


class Float4(FourBit):
    """Floating-point values of a sign, two bits of exponent and one of mantissa."""

    values = "fp4"


class Int8Linear(nn.Module):
    """x [T, in] -> x W^T + b [T, out] in LLM.int8 (Dettmers et al. 2022).

    Each row of W and of x is rounded to 8 bits by its own largest value, the product is exact in 32 bits. Outliers of x
    are taken out of it and multiplied in the model's type.

    The library's own module treats a feature as an outlier in all rows as soon as it is one in any of them, so that
    the result for one request would depend on the others in its batch. Here, only the values themselves are.
    """

    capturable = False  # the host must know whether there are outliers

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scales = _to_int8(weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        outlying = x.abs() >= OUTLIER_THRESHOLD
        regular, scales = _to_int8(x.masked_fill(outlying, 0))
        out: Tensor = torch.ops.bitsandbytes.int8_scaled_mm(
            regular, self.weight, scales, self.scales, bias=self.bias, dtype=x.dtype
        )
        features = outlying.any(dim=0).nonzero()[:, 0]
        if len(features):
            weight = bnb.functional.int8_vectorwise_dequant(self.weight[:, features], self.scales)
            outliers = x[:, features].masked_fill(~outlying[:, features], 0)
            out = out.addmm(outliers, weight.t().to(x.dtype))
        return out


def _to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rows rounded to int8, and the largest absolute value of each row, float32: what 127 stands for."""
    if matrix.device.type == "cuda":  # the kernel takes nothing else
        matrix = matrix.to(torch.float16)
    rounded, scales, _ = bnb.functional.int8_vectorwise_quant(matrix.contiguous())
    return rounded, scales


class FourBitLinear(nn.Module):
    """x [..., in] -> x W^T + b [..., out], W in codes of 4 bits with a float32 scale for every `BLOCK` of them.

    Rows of W are padded to whole blocks, so that no block reaches over two rows: a rank's share of the rows is
    quantized as it would be in the whole matrix, and the library's fast kernels apply whatever the shape.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, values: str) -> None:
        super().__init__()
        self.padding = -weight.shape[1] % BLOCK
        padded = pad(weight, (0, self.padding))
        self.weight, self.state = bnb.functional.quantize_4bit(padded, blocksize=BLOCK, quant_type=values)
        if _has_fast_cpu_kernel(weight):
            # bitsandbytes.nn.Linear4bit does the same, and takes longer to call than a small matrix takes to multiply.
            self.weight, self.state = bnb.functional._convert_weight_packed_for_cpu(self.weight, self.state)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            x = pad(x, (0, self.padding))
        out: Tensor = bnb.matmul_4bit(x, self.weight, self.state, bias=self.bias)
        return out


def _has_fast_cpu_kernel(weight: Tensor) -> bool:
    """Can `weight` be multiplied without writing it out in full precision at every step? In bfloat16, whatever the
    model's type, which loses far less than the 4 bits do."""
    rows_fit = weight.shape[0] % CPU_PACKING_ROWS == 0
    return weight.device.type == "cpu" and rows_fit and bool(bnb.functional.has_avx512bf16())
