"""Device code of fused.py: what lies between the matrix products of a layer, a kernel for each gap."""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["inner"])
def add_and_normalize(
    x,
    added,
    weight,
    total,
    out,
    inner,
    outer_stride,
    inner_stride,
    width,
    eps,
    ADDS: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Grid (rows,): out [rows, width] = x / rms(x) * weight, with x[r // inner, r % inner] as row r.

    With ADDS, x is first rounded to total = x + added, all [rows, width] then. With ROUNDS_FIRST, x / rms(x) is rounded
    to the type of x before it meets the weight. WIDTH is `width` or the power of two above it.
    """
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, WIDTH)
    exists = places < width
    value = tl.load(x + (row // inner) * outer_stride + (row % inner) * inner_stride + places, mask=exists, other=0.0)
    factor = tl.load(weight + places, mask=exists, other=0.0).to(tl.float32)
    value = value.to(tl.float32)
    if ADDS:
        value += tl.load(added + row * width + places, mask=exists, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * width + places, rounded, mask=exists)
        value = rounded.to(tl.float32)
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    if ROUNDS_FIRST:
        normed = normed.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + places, (normed * factor).to(out.dtype.element_ty), mask=exists)


@triton.jit
def silu_and_multiply(gate_up, out, width, PLACES: tl.constexpr):
    """Grid (rows, tiles of PLACES): out [rows, width] = silu(gate) * up, with gate and up the halves of a row."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    exists = places < width
    gate = tl.load(gate_up + row * 2 * width + places, mask=exists, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + places, mask=exists, other=0.0).to(tl.float32)
    # Rounded where torch's operators round, so that results do not depend on which of them runs.
    activated = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + places, (activated * up).to(out.dtype.element_ty), mask=exists)
