"""Device code of attention/triton.py: keys and values go into the paged cache, which attend (triton_kernels.py) reads.

Pools are [num_blocks, num_kv_heads, block_size, head_dim]. Those of 8 bits are [num_blocks, num_kv_heads, block_size *
(head_dim + 4)]: behind a block's numbers lie the scales of its tokens, float32, by which each key and value is divided,
so that its largest number becomes the type's.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def write_cache(
    q,
    k,
    v,
    cos,
    sin,
    turned,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    slots,
    q_token_stride,
    q_head_stride,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    block_stride,
    head_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """Grid (tokens, KV heads): put a token's key and value where its slot says.

    With a ROTARY_DIM above 0, the first so many features of the key turn before by cos and sin [tokens, ROTARY_DIM],
    and those of the queries of its group, into turned [tokens, HEADS, HEAD_DIM]. LARGEST is 0 for pools without scales.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots + token)
    dims = tl.arange(0, PADDED_DIM)
    exists = dims < HEAD_DIM
    k_row = k + token * k_token_stride + head * k_head_stride
    key = tl.load(k_row + dims, mask=exists, other=0.0)
    value = tl.load(v + token * v_token_stride + head * v_head_stride + dims, mask=exists, other=0.0)
    if ROTARY_DIM > 0:
        # Feature i turns with i + ROTARY_DIM / 2, and that one with i.
        turns = dims < ROTARY_DIM
        is_first = dims < ROTARY_DIM // 2
        partners = tl.where(is_first, dims + ROTARY_DIM // 2, dims - ROTARY_DIM // 2)
        cosine = tl.load(cos + token * ROTARY_DIM + dims, mask=turns, other=1.0).to(tl.float32)
        sine = tl.load(sin + token * ROTARY_DIM + dims, mask=turns, other=0.0).to(tl.float32)
        sine = tl.where(is_first, -sine, sine)
        other = tl.load(k_row + partners, mask=turns, other=0.0)
        key = (key.to(tl.float32) * cosine + other.to(tl.float32) * sine).to(k.dtype.element_ty)
        rows = tl.arange(0, PADDED_GROUP)
        heads = head * GROUP + rows
        q_rows = q + token * q_token_stride + heads[:, None] * q_head_stride
        in_group = (rows < GROUP)[:, None]
        query = tl.load(q_rows + dims[None, :], mask=in_group & exists[None, :], other=0.0).to(tl.float32)
        other = tl.load(q_rows + partners[None, :], mask=in_group & turns[None, :], other=0.0).to(tl.float32)
        query = query * cosine[None, :] + other * sine[None, :]
        places = (token * HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
        tl.store(turned + places, query.to(turned.dtype.element_ty), mask=in_group & exists[None, :])
    start = (slot // BLOCK_SIZE) * block_stride + head * head_stride
    place = start + (slot % BLOCK_SIZE) * HEAD_DIM + dims
    if LARGEST > 0:
        place_of_scale = (start + BLOCK_SIZE * HEAD_DIM) // 4 + slot % BLOCK_SIZE
        key, key_scale = _scaled(key, LARGEST)
        value, value_scale = _scaled(value, LARGEST)
        tl.store(k_scales + place_of_scale, key_scale)
        tl.store(v_scales + place_of_scale, value_scale)
    tl.store(k_cache + place, key.to(k_cache.dtype.element_ty), mask=exists)
    tl.store(v_cache + place, value.to(v_cache.dtype.element_ty), mask=exists)


@triton.jit
def _scaled(row, LARGEST: tl.constexpr):
    """A row whose largest number is LARGEST, in float32, and what it was divided by."""
    row = row.to(tl.float32)
    scale = tl.max(tl.abs(row), 0) / LARGEST
    scale = tl.where(scale > 0, scale, 1.0)
    return row / scale, scale
