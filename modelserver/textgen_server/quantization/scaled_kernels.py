"""Device code of scaled_triton.py, products with weights of 8 bits that are dequantized tile by tile and such weights
written out, and of rounding_triton.py.

Codes are int8 [out, in]; with FLOAT they are the bits of numbers of type float8_e4m3fn, which not every device knows.
Scales are float32 [out, groups]; the group of input feature k is (first + k) // group_size.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from textgen_server.quantization.split_kernels import finish


@triton.jit
def _numbers(codes, inputs, outputs, size, out, FLOAT: tl.constexpr, kind: tl.constexpr):
    """What the codes of a tile stand for before they are scaled, [outputs, inputs] in the type `kind`, outside of the
    matrix 0. With FLOAT, a 256th of it, which is a matter for the scales."""
    exists = (outputs < out)[:, None] & (inputs < size)[None, :]
    code = tl.load(codes + outputs.to(tl.int64)[:, None] * size + inputs[None, :], mask=exists, other=0)
    if FLOAT:
        # Sign, exponent and mantissa move to where float16 has them; its exponents begin 8 below.
        code = ((code.to(tl.int16) << 7) & -16385).to(tl.float16, bitcast=True)
    return code.to(kind)


@triton.jit
def _scales(scales, inputs, outputs, size, out, groups, group_size, first, FLOAT: tl.constexpr):
    """Of each number of a tile, float32 [outputs, inputs]."""
    exists = (outputs < out)[:, None] & (inputs < size)[None, :]
    group = (first + inputs) // group_size
    return tl.load(scales + outputs[:, None] * groups + group[None, :], mask=exists, other=0) * (256 if FLOAT else 1)


@triton.jit(do_not_specialize=["rows", "steps"])
def multiply_scaled(
    x,
    partial,
    arrivals,
    product,
    bias,
    rows,
    out,
    steps,
    codes,
    scales,
    size,
    groups,
    group_size,
    first,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    FLOAT: tl.constexpr,
    BY_TILE: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid (tiles of OUTPUTS features, splits): x [rows, size] times the weights, each split over `steps` tiles of
    INPUTS input features. With BY_TILE, the features of a tile share their scales, which then meet sums alone."""
    row = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first_tile = tl.program_id(1) * steps
    result = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for tile in tl.range(first_tile, tl.minimum(first_tile + steps, tl.cdiv(size, INPUTS)), num_stages=STAGES):
        inputs = tl.arange(0, INPUTS) + tile * INPUTS
        there = (row < rows)[:, None] & (inputs < size)[None, :]
        values = tl.load(x + row[:, None] * size + inputs[None, :], mask=there, other=0)
        # Products of float32 use three products of TF32; other types are not concerned.
        if BY_TILE:
            weights = _numbers(codes, inputs, outputs, size, out, FLOAT, values.dtype)
            part = tl.dot(values, tl.trans(weights), input_precision="tf32x3")
            group = (first + tile * INPUTS) // group_size
            scale = tl.load(scales + outputs * groups + group, mask=outputs < out, other=0) * (256 if FLOAT else 1)
            result += part * scale[None, :]
        else:
            weights = _numbers(codes, inputs, outputs, size, out, FLOAT, tl.float32)
            weights *= _scales(scales, inputs, outputs, size, out, groups, group_size, first, FLOAT)
            result += tl.dot(values, tl.trans(weights.to(values.dtype)), input_precision="tf32x3")
    finish(result, partial, arrivals, product, bias, rows, out, row, outputs, HAS_BIAS, SPLITS)


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
    tile = _numbers(codes, inputs, outputs, size, out, FLOAT, tl.float32)
    tile *= _scales(scales, inputs, outputs, size, out, groups, group_size, first, FLOAT)
    exists = (outputs < out)[:, None] & (inputs < size)[None, :]
    places = outputs.to(tl.int64)[:, None] * size + inputs[None, :]
    tl.store(weight + places, tile.to(weight.dtype.element_ty), mask=exists)


@triton.jit
def round_rows(x, codes, scales, size, given, LARGEST: tl.constexpr, DYNAMIC: tl.constexpr, STEP: tl.constexpr):
    """Grid (rows): the nearest codes to the numbers of a row of x [rows, size], and what a code of one stands for:
    `given`, else what makes `LARGEST` the row's largest."""
    row, places = tl.program_id(0).to(tl.int64), tl.arange(0, STEP)
    scale = given
    if DYNAMIC:
        largest = tl.zeros([STEP], dtype=tl.float32)
        for start in range(0, size, STEP):
            value = tl.load(x + row * size + start + places, mask=start + places < size, other=0)
            largest = tl.maximum(largest, tl.abs(value.to(tl.float32)))
        # The least is the smallest normal number: rows of zeros stay zeros.
        scale = tl.maximum(tl.div_rn(tl.max(largest, 0), LARGEST), 1.1754943508222875e-38)
    tl.store(scales + row, scale)
    for start in range(0, size, STEP):
        there = start + places < size
        value = tl.load(x + row * size + start + places, mask=there, other=0).to(tl.float32)
        code = tl.div_rn(value, tl.zeros([STEP], dtype=tl.float32) + scale)
        if codes.dtype.element_ty == tl.int8:
            code = tl.minimum(tl.maximum(code, -128.0), LARGEST)
            # Beyond 2^23, float32 has whole numbers alone: the nearest, and of two the even one.
            code = code + 12582912.0 - 12582912.0
        else:
            code = tl.minimum(tl.maximum(code, -LARGEST), LARGEST)
            # Likewise, in units of the last of three bits of mantissa; the smallest exponent is -6. The conversion is
            # exact then, and the same in Triton's interpreter, whose own rounding of float8 is not.
            exponent = tl.maximum((code.to(tl.int32, bitcast=True) >> 23) & 255, 127 - 6)
            unit = ((exponent - 3) << 23).to(tl.float32, bitcast=True) * 12582912.0
            code = code + unit - unit
        tl.store(codes + row * size + start + places, code.to(codes.dtype.element_ty), mask=there)
