"""Device code of skinny.py: the product of few rows with a matrix, which takes as long as reading the matrix."""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from textgen_server.quantization.split_kernels import finish


@triton.jit(do_not_specialize=["rows", "steps"])
def multiply_few_rows(
    x,
    partial,
    arrivals,
    product,
    bias,
    rows,
    out,
    steps,
    weight,
    size,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid (tiles of OUTPUTS features, splits): x [rows, size] times weight [out, size], each split over `steps` tiles
    of INPUTS input features. EVEN: they are all full, and so are those of outputs."""
    row = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first = tl.program_id(1) * steps
    result = tl.zeros([ROWS, OUTPUTS], dtype=tl.float32)
    starts = weight + outputs.to(tl.int64)[:, None] * size
    for tile in tl.range(first, tl.minimum(first + steps, tl.cdiv(size, INPUTS)), num_stages=STAGES):
        inputs = tl.arange(0, INPUTS) + tile * INPUTS
        there = (row < rows)[:, None]
        if EVEN:
            weights = tl.load(starts + inputs[None, :])
        else:
            there = there & (inputs < size)[None, :]
            weights = tl.load(
                starts + inputs[None, :], mask=(outputs < out)[:, None] & (inputs < size)[None, :], other=0
            )
        values = tl.load(x + row[:, None] * size + inputs[None, :], mask=there, other=0)
        result = tl.dot(values, tl.trans(weights), result)
    finish(result, partial, arrivals, product, bias, rows, out, row, outputs, HAS_BIAS, SPLITS)
