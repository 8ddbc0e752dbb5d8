"""Device code of lora_triton.py: low-rank products of a step's rows, each with its own adapter, all at once (BGMV of
Punica, Chen et al. 2023). Adapters stay where they were loaded: `table` [adapters, 3] int64 has the addresses of
a [rank, size] and b [out, rank] and the rank of each, which is 0 where an adapter leaves the layer as it is.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def shrink(x, table, rows, adapters, shrunk, size, RANK: tl.constexpr, INPUTS: tl.constexpr):
    """Grid (n,): shrunk [n, RANK] float32 = a x, with x[rows[i]] and the a of adapter adapters[i]."""
    index = tl.program_id(0)
    entry = table + tl.load(adapters + index) * 3
    rank = tl.load(entry + 2)
    ranks = tl.arange(0, RANK)
    total = tl.zeros([RANK, INPUTS], dtype=tl.float32)
    if rank > 0:
        a = tl.multiple_of(tl.load(entry).to(tl.pointer_type(x.dtype.element_ty)), 16)
        x_row = x + tl.load(rows + index) * size
        for start in range(0, size, INPUTS):
            inputs = start + tl.arange(0, INPUTS)
            values = tl.load(x_row + inputs, mask=inputs < size, other=0.0).to(tl.float32)
            there = (ranks < rank)[:, None] & (inputs < size)[None, :]
            weights = tl.load(a + ranks[:, None] * size + inputs[None, :], mask=there, other=0.0)
            total += weights.to(tl.float32) * values[None, :]
    tl.store(shrunk + index * RANK + ranks, tl.sum(total, 1))


@triton.jit
def expand(shrunk, table, rows, adapters, out, width, RANK: tl.constexpr, OUTPUTS: tl.constexpr):
    """Grid (n, tiles of OUTPUTS): out[rows[i]] += b shrunk[i], with the b of adapter adapters[i]. Rows differ."""
    index = tl.program_id(0)
    entry = table + tl.load(adapters + index) * 3
    rank = tl.load(entry + 2)
    if rank > 0:
        b = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(out.dtype.element_ty)), 16)
        ranks = tl.arange(0, RANK)
        outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
        values = tl.load(shrunk + index * RANK + ranks)
        there = (outputs < width)[:, None] & (ranks < rank)[None, :]
        weights = tl.load(b + outputs[:, None] * rank + ranks[None, :], mask=there, other=0.0).to(tl.float32)
        place = out + tl.load(rows + index) * width + outputs
        sums = tl.load(place, mask=outputs < width, other=0.0).to(tl.float32)
        sums += tl.sum(weights * values[None, :], 1)
        tl.store(place, sums.to(out.dtype.element_ty), mask=outputs < width)
