"""Device code of grouped_linear.py: products with grouped weights that are dequantized tile by tile, and such weights
written out.

Codes of BITS bits are packed along the input features, int32 [in * BITS / 32, out]; scales and zeros are [groups, out].
The group of input feature k is k // GROUP_SIZE or, where GROUP_SIZE is 0, groups[k] (act-order).
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _weights(codes, scales, zeros, groups, inputs, outputs, size, out, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr):
    """float32 tile of the matrix [in, out]; outside of it 0."""
    PER_WORD: tl.constexpr = 32 // BITS
    exists = (inputs < size)[:, None] & (outputs < out)[None, :]
    words = tl.load(codes + (inputs // PER_WORD)[:, None] * out + outputs[None, :], mask=exists, other=0)
    code = (words >> ((inputs % PER_WORD) * BITS)[:, None]) & ((1 << BITS) - 1)
    group = inputs // GROUP_SIZE if GROUP_SIZE > 0 else tl.load(groups + inputs, mask=inputs < size, other=0)
    places = group[:, None] * out + outputs[None, :]
    zero = tl.load(zeros + places, mask=exists, other=0).to(tl.int32)
    scale = tl.load(scales + places, mask=exists, other=0).to(tl.float32)
    return (code - zero).to(tl.float32) * scale


@triton.jit(do_not_specialize=["rows"])
def multiply(
    x,
    codes,
    scales,
    zeros,
    groups,
    partial,
    rows,
    size,
    out,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Grid (tiles of OUTPUTS columns, splits): x [rows, in] times the weights, each split over STEPS tiles of INPUTS
    input features; float32 partial [splits, rows, out]."""
    row = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(1)
    result = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for step in range(STEPS):
        inputs = (split * STEPS + step) * INPUTS + tl.arange(0, INPUTS)
        there = (row < rows)[:, None] & (inputs < size)[None, :]
        values = tl.load(x + row[:, None] * size + inputs[None, :], mask=there, other=0)
        weights = _weights(codes, scales, zeros, groups, inputs, outputs, size, out, BITS, GROUP_SIZE)
        # Products of float32 use three products of TF32; other types are not concerned.
        result += tl.dot(values, weights.to(values.dtype), input_precision="tf32x3")
    place = (split * rows + row)[:, None] * out + outputs[None, :]
    tl.store(partial + place, result, mask=(row < rows)[:, None] & (outputs < out)[None, :])


@triton.jit
def dequantize(
    codes,
    scales,
    zeros,
    groups,
    weight,
    size,
    out,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid (tiles of INPUTS rows, tiles of OUTPUTS columns): write out the matrix [in, out]."""
    inputs = tl.program_id(0) * INPUTS + tl.arange(0, INPUTS)
    outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    tile = _weights(codes, scales, zeros, groups, inputs, outputs, size, out, BITS, GROUP_SIZE)
    exists = (inputs < size)[:, None] & (outputs < out)[None, :]
    places = inputs.to(tl.int64)[:, None] * out + outputs[None, :]
    tl.store(weight + places, tile.to(weight.dtype.element_ty), mask=exists)
