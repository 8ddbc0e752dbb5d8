"""Device code of grouped_linear.py: products with grouped weights that are dequantized tile by tile, and such weights
written out.

Input features lie in slices of 16 that share a group, and slices in tiles of as many as a word of 32 bits holds codes:
bits BITS * s and up of row i of a tile's 16 rows of words are the code of feature i of its slice s. So a word is read
once, and a tile is a slice of words shifted. Words are int32 [16 * tiles, out], scales and zeros [groups, out]. With a
GROUP_TILES above 0, each so many tiles in turn share a group; else groups [slices] says it. `order` [features] are the
places in x of the features in the order of their tiles, -1 for none; with ORDERED off they are in order.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from textgen_server.quantization.split_kernels import finish

_SLICE: tl.constexpr = tl.constexpr(16)


@triton.jit
def _differences(codes, zeros, BITS: tl.constexpr, kind: tl.constexpr):
    """codes - zeros, two tensors of int32, exactly and in the type `kind`."""
    # Conversions are dear. 1024 in float16, 128 in bfloat16 and 2^23 in float32 have a last place of 1: what is or'ed
    # into their bits is added.
    MAGIC: tl.constexpr = 0x6400 if kind == tl.float16 else 0x4300
    if kind == tl.float16 or (kind == tl.bfloat16 and BITS < 8):
        code = (codes | MAGIC).to(tl.int16).to(kind, bitcast=True)
        zero = (zeros | MAGIC).to(tl.int16).to(kind, bitcast=True)
        difference = code - zero
    else:
        code = (codes | 0x4B000000).to(tl.float32, bitcast=True)
        zero = (zeros | 0x4B000000).to(tl.float32, bitcast=True)
        difference = (code - zero).to(kind)
    return difference


@triton.jit
def _slice(
    words, scales, zeros, groups, tile, slice, outputs, out,
    BITS: tl.constexpr, GROUP_TILES: tl.constexpr, kind: tl.constexpr,
):  # fmt: skip
    """Of a tile's words [16, outputs], the slice in the type `kind`, and the scales of its outputs, float32."""
    group = tile // GROUP_TILES if GROUP_TILES > 0 else tl.load(groups + tile * (32 // BITS) + slice)
    exists = outputs < out
    zero = tl.load(zeros + group * out + outputs, mask=exists, other=0).to(tl.int32)
    scale = tl.load(scales + group * out + outputs, mask=exists, other=0).to(tl.float32)
    codes = (words >> (BITS * slice)) & ((1 << BITS) - 1)
    return _differences(codes, zero[None, :], BITS, kind), scale


@triton.jit
def _words(codes, tile, outputs, out):
    rows = (tl.arange(0, _SLICE) + tile * _SLICE).to(tl.int64)
    return tl.load(codes + rows[:, None] * out + outputs[None, :], mask=(outputs < out)[None, :], other=0)


@triton.jit
def _inputs(order, tile, slice, size, BITS: tl.constexpr, ORDERED: tl.constexpr):
    """Places in x of a slice's features, and which there are."""
    inputs = tl.arange(0, _SLICE) + (tile * (32 // BITS) + slice) * _SLICE
    if ORDERED:
        inputs = tl.load(order + inputs)
    return inputs, (inputs >= 0) & (inputs < size)


@triton.jit(do_not_specialize=["rows", "steps"])
def multiply(
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
    zeros,
    groups,
    order,
    size,
    tiles,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP_TILES: tl.constexpr,
    ORDERED: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid (tiles of OUTPUTS columns, splits): x [rows, size] times the weights, each split over `steps` tiles of input
    features. Zeros meet codes, exactly, and scales meet sums. EVEN: tiles have no places without a feature."""
    row = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first = tl.program_id(1) * steps
    result = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    for tile in tl.range(first, tl.minimum(first + steps, tiles), num_stages=STAGES):
        words = _words(codes, tile, outputs, out)
        total = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
        for slice in tl.static_range(32 // BITS):
            inputs, exists = _inputs(order, tile, slice, size, BITS, ORDERED)
            there = (row < rows)[:, None]
            if not EVEN:
                there = there & exists[None, :]
            values = tl.load(x + row[:, None] * size + inputs[None, :], mask=there, other=0)
            weights, scale = _slice(
                words, scales, zeros, groups, tile, slice, outputs, out, BITS, GROUP_TILES, values.dtype
            )
            # Products of float32 use three products of TF32; other types are not concerned.
            if GROUP_TILES > 0:
                total = tl.dot(values, weights, total, input_precision="tf32x3")
            else:
                result += tl.dot(values, weights, input_precision="tf32x3") * scale[None, :]
        if GROUP_TILES > 0:
            result += total * scale[None, :]
    finish(result, partial, arrivals, product, bias, rows, out, row, outputs, HAS_BIAS, SPLITS)


@triton.jit
def dequantize(
    codes,
    scales,
    zeros,
    groups,
    order,
    weight,
    size,
    out,
    BITS: tl.constexpr,
    GROUP_TILES: tl.constexpr,
    ORDERED: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid (tiles of input features, tiles of OUTPUTS columns): write out the matrix [size, out]."""
    tile = tl.program_id(0)
    outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    words = _words(codes, tile, outputs, out)
    for slice in tl.static_range(32 // BITS):
        inputs, exists = _inputs(order, tile, slice, size, BITS, ORDERED)
        numbers, scale = _slice(words, scales, zeros, groups, tile, slice, outputs, out, BITS, GROUP_TILES, tl.float32)
        places = inputs.to(tl.int64)[:, None] * out + outputs[None, :]
        there = exists[:, None] & (outputs < out)[None, :]
        tl.store(weight + places, (numbers * scale[None, :]).to(weight.dtype.element_ty), mask=there)
