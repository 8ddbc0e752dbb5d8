"""Device code of scaled_triton.py: products with weights of 8 bits that are dequantized tile by tile, and such weights
written out.

Codes are int8 [out, in]; with FLOAT they are the bits of numbers of type float8_e4m3fn, which not every device knows.
Scales are float32 [out, groups]; the group of input feature k is (first + k) // group_size.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _weights(codes, scales, inputs, outputs, size, out, groups, group_size, first, FLOAT: tl.constexpr):
    """float32 tile of the matrix [out, in]; outside of it 0."""
    exists = (outputs < out)[:, None] & (inputs < size)[None, :]
    code = tl.load(codes + outputs.to(tl.int64)[:, None] * size + inputs[None, :], mask=exists, other=0)
    if FLOAT:
        # Sign, exponent and mantissa move to where float16 has them; its exponents begin 8 below.
        bits = (code.to(tl.int16) << 7) & -16385
        value = bits.to(tl.float16, bitcast=True).to(tl.float32) * 256
    else:
        value = code.to(tl.float32)
    group = (first + inputs) // group_size
    scale = tl.load(scales + outputs[:, None] * groups + group[None, :], mask=exists, other=0)
    return value * scale


@triton.jit(do_not_specialize=["rows"])
def multiply_scaled(
    x,
    codes,
    scales,
    partial,
    rows,
    size,
    out,
    groups,
    group_size,
    first,
    FLOAT: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Grid (tiles of OUTPUTS features, splits): x [rows, in] times the weights, each split over STEPS tiles of INPUTS
    input features; float32 partial [splits, rows, out]."""
    row = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(1)
    result = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for step in range(STEPS):
        inputs = (split * STEPS + step) * INPUTS + tl.arange(0, INPUTS)
        there = (row < rows)[:, None] & (inputs < size)[None, :]
        values = tl.load(x + row[:, None] * size + inputs[None, :], mask=there, other=0)
        weights = _weights(codes, scales, inputs, outputs, size, out, groups, group_size, first, FLOAT)
        # Products of float32 use three products of TF32; other types are not concerned.
        result += tl.dot(values, tl.trans(weights.to(values.dtype)), input_precision="tf32x3")
    place = (split * rows + row)[:, None] * out + outputs[None, :]
    tl.store(partial + place, result, mask=(row < rows)[:, None] & (outputs < out)[None, :])


@triton.jit
def dequantize_scaled(
    codes,
    scales,
    weight,
    size,
    out,
    groups,
    group_size,
    first,
    FLOAT: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid (tiles of OUTPUTS rows, tiles of INPUTS columns): write out the matrix [out, in]."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inputs = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    tile = _weights(codes, scales, inputs, outputs, size, out, groups, group_size, first, FLOAT)
    exists = (outputs < out)[:, None] & (inputs < size)[None, :]
    places = outputs.to(tl.int64)[:, None] * size + inputs[None, :]
    tl.store(weight + places, tile.to(weight.dtype.element_ty), mask=exists)
