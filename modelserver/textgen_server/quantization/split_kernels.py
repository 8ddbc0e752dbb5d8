"""Device code shared by products of few rows whose input features several programs share: how their sums meet."""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def finish(
    result, partial, arrivals, out, bias, rows, width, row, outputs, HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr
):
    """End a program of the grid (tiles of columns, splits), whose part of the sum is `result` [row, outputs].

    With SPLITS, the sum of the splits, else the part itself, and bias [width] go to out [rows, width]. The last program
    of a tile to arrive adds all parts, in the order of the splits, so that the sum is always the same.

    Args:
        partial: float32 [splits, rows, width].
        arrivals: int32, a zero for each tile of columns; zeros again afterwards.
    """
    there = (row < rows)[:, None] & (outputs < width)[None, :]
    place = row[:, None] * width + outputs[None, :]
    if SPLITS:
        splits = tl.num_programs(1)
        tl.store(partial + tl.program_id(1) * rows * width + place, result, mask=there)
        # All of this program's part is written before its arrival is seen.
        tl.debug_barrier()
        arrived = tl.atomic_add(arrivals + tl.program_id(0), 1, sem="acq_rel")
        if arrived == splits - 1:
            result = tl.zeros(result.shape, dtype=tl.float32)
            for split in range(0, splits):
                # From the second-level cache: the first may not be another multiprocessor's.
                part = partial + split * rows * width + place
                result += tl.load(part, mask=there, other=0.0, cache_modifier=".cg")
            _store(result, out, bias, width, place, outputs, there, HAS_BIAS)
            tl.store(arrivals + tl.program_id(0), 0)
    else:
        _store(result, out, bias, width, place, outputs, there, HAS_BIAS)


@triton.jit
def _store(result, out, bias, width, place, outputs, there, HAS_BIAS: tl.constexpr):
    if HAS_BIAS:
        result += tl.load(bias + outputs, mask=outputs < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=there)
