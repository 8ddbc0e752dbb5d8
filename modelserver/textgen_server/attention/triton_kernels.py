"""Device code of attention/triton.py: write into the paged cache, attend over it, merge the splits.

Pools are [num_blocks, num_kv_heads, block_size, head_dim]. Those of 8 bits are [num_blocks, num_kv_heads, block_size *
(head_dim + 4)]: behind a block's numbers lie the scales of its tokens, float32, by which each key and value is divided,
so that its largest number becomes the type's. One program attends for ROWS rows of one KV head, where row
r of a sequence is query r // GROUP of query head r % GROUP of the group: a group's heads share each load of keys, for
any ratio of heads, and a decode is a sequence of GROUP rows. Softmax runs online over tiles of KEYS keys (Milakov and
Gimelshein 2018; Dao et al. 2022), in powers of two; with NUM_SPLITS > 1 several programs take a part of the keys each
(flash-decoding) and `merge_splits` weighs their results by their log-sum-exp.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def write_cache(
    k,
    v,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    slots,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    block_stride,
    head_stride,
    KV_HEADS: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """Grid (tokens,): put one token's keys and values where its slot says. LARGEST is 0 for pools without scales."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    heads = tl.arange(0, PADDED_HEADS)[:, None]
    dims = tl.arange(0, PADDED_DIM)[None, :]
    exists = (heads < KV_HEADS) & (dims < HEAD_DIM)
    target = (slot // BLOCK_SIZE) * block_stride + heads * head_stride + (slot % BLOCK_SIZE) * HEAD_DIM + dims
    key = tl.load(k + token * k_token_stride + heads * k_head_stride + dims, mask=exists, other=0.0)
    value = tl.load(v + token * v_token_stride + heads * v_head_stride + dims, mask=exists, other=0.0)
    if LARGEST > 0:
        heads_of_pool = tl.arange(0, PADDED_HEADS)
        places = ((slot // BLOCK_SIZE) * block_stride + heads_of_pool * head_stride + BLOCK_SIZE * HEAD_DIM) // 4
        places += slot % BLOCK_SIZE
        key, key_scale = _scaled(key, LARGEST)
        value, value_scale = _scaled(value, LARGEST)
        tl.store(k_scales + places, key_scale, mask=heads_of_pool < KV_HEADS)
        tl.store(v_scales + places, value_scale, mask=heads_of_pool < KV_HEADS)
    tl.store(k_cache + target, key.to(k_cache.dtype.element_ty), mask=exists)
    tl.store(v_cache + target, value.to(v_cache.dtype.element_ty), mask=exists)


@triton.jit
def _scaled(rows, LARGEST: tl.constexpr):
    """Rows whose largest number is LARGEST, in float32, and what each was divided by."""
    rows = rows.to(tl.float32)
    scale = tl.max(tl.abs(rows), 1) / LARGEST
    scale = tl.where(scale > 0, scale, 1.0)
    return rows / scale[:, None], scale


# Products of float32 tiles use three products of TF32, nearly as exact and on tensor cores; others are not concerned.
FLOAT32_PRODUCT: tl.constexpr = tl.constexpr("tf32x3")


@triton.jit
def _log2_logits(q_tile, key_tile, keys, positions, slopes, scale, HAS_ALIBI: tl.constexpr, SOFTCAP: tl.constexpr):
    """[ROWS, KEYS] logits in units of log 2, before any mask. `scale` is one for all or one for each key."""
    logits = tl.dot(q_tile, tl.trans(key_tile), input_precision=FLOAT32_PRODUCT) * scale
    if SOFTCAP > 0:
        # tanh x = 1 - 2 / (e^2x + 1), which saturates without overflow
        logits = SOFTCAP * (1 - 2 / (tl.exp2(logits * (2 * LOG2_E / SOFTCAP)) + 1))
    if HAS_ALIBI:
        logits += slopes[:, None] * (keys[None, :] - positions[:, None]).to(tl.float32)
    return logits * LOG2_E


@triton.jit(do_not_specialize=["first_sequence", "table_stride"])
def attend(
    q,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    out,
    split_lse,
    query_start,
    context_lens,
    block_tables,
    alibi_slopes,
    relative_bias,
    first_keys,
    first_sequence,
    table_stride,
    scale,
    q_token_stride,
    q_head_stride,
    block_stride,
    head_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SCALED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    DISTANCES: tl.constexpr,
    HAS_FIRST_KEYS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Grid (row tiles * NUM_SPLITS, sequences, KV heads).

    out is [tokens, HEADS, NUM_SPLITS, HEAD_DIM] and split_lse [tokens, HEADS, NUM_SPLITS], in log 2, written only with
    several splits. WINDOW, SOFTCAP and DISTANCES, the columns of relative_bias [HEADS, DISTANCES], are 0 where there is
    none.
    """
    tile = tl.program_id(0) // NUM_SPLITS
    split = tl.program_id(0) % NUM_SPLITS
    sequence = first_sequence + tl.program_id(1)
    kv_head = tl.program_id(2)

    first_token = tl.load(query_start + sequence)
    num_queries = tl.load(query_start + sequence + 1) - first_token
    if tile * ROWS >= num_queries * GROUP:
        return
    cached = tl.load(context_lens + sequence) - num_queries

    rows = tile * ROWS + tl.arange(0, ROWS)
    queries = rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    positions = cached + queries
    dims = tl.arange(0, PADDED_DIM)
    in_row = (queries < num_queries)[:, None] & (dims < HEAD_DIM)[None, :]
    tokens = (first_token + queries).to(tl.int64)
    q_rows = tokens * q_token_stride + heads * q_head_stride
    q_tile = tl.load(q + q_rows[:, None] + dims[None, :], mask=in_row, other=0.0)
    slopes = positions
    if HAS_ALIBI:
        slopes = tl.load(alibi_slopes + heads, mask=queries < num_queries, other=0.0)

    first_key = 0
    if HAS_FIRST_KEYS:
        first_key = tl.load(first_keys + sequence)
    if WINDOW > 0:
        first_key = tl.maximum(first_key, cached + (tile * ROWS) // GROUP - WINDOW + 1)
    end_key = cached + tl.minimum((tile * ROWS + ROWS - 1) // GROUP + 1, num_queries)
    share = tl.cdiv(tl.cdiv(end_key - first_key, KEYS), NUM_SPLITS) * KEYS
    start = first_key + split * share
    stop = tl.minimum(start + share, end_key)

    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    for tile_start in range(start, stop, KEYS):
        keys = tile_start + tl.arange(0, KEYS)
        in_tile = (keys < stop)[:, None] & (dims < HEAD_DIM)[None, :]
        blocks = tl.load(block_tables + sequence * table_stride + keys // BLOCK_SIZE, mask=keys < stop, other=0)
        cells = blocks.to(tl.int64) * block_stride + kv_head * head_stride + (keys % BLOCK_SIZE) * HEAD_DIM
        key_tile = tl.load(k_cache + cells[:, None] + dims[None, :], mask=in_tile, other=0.0).to(q_tile.dtype)
        key_factors = scale
        if SCALED:
            places = (blocks.to(tl.int64) * block_stride + kv_head * head_stride + BLOCK_SIZE * HEAD_DIM) // 4
            places += keys % BLOCK_SIZE
            key_factors = scale * tl.load(k_scales + places, mask=keys < stop, other=0.0)[None, :]
        logits = _log2_logits(q_tile, key_tile, keys, positions, slopes, key_factors, HAS_ALIBI, SOFTCAP)
        if DISTANCES > 0:
            distances = tl.minimum(tl.maximum(positions[:, None] - keys[None, :], 0), DISTANCES - 1)
            in_table = (queries < num_queries)[:, None] & (keys < stop)[None, :]
            bias = tl.load(relative_bias + heads[:, None] * DISTANCES + distances, mask=in_table, other=0.0)
            logits += bias * LOG2_E
        visible = (keys[None, :] <= positions[:, None]) & (keys < stop)[None, :]
        if WINDOW > 0:
            visible &= keys[None, :] > positions[:, None] - WINDOW
        logits = tl.where(visible, logits, float("-inf"))

        raised = tl.maximum(highest, tl.max(logits, 1))
        # A row that has seen no key yet keeps weights of 0 instead of exp(-inf + inf).
        anchor = tl.where(raised == float("-inf"), 0.0, raised)
        weights = tl.exp2(logits - anchor[:, None])
        shrink = tl.exp2(highest - anchor)
        total = total * shrink + tl.sum(weights, 1)
        value_tile = tl.load(v_cache + cells[:, None] + dims[None, :], mask=in_tile, other=0.0).to(q_tile.dtype)
        if SCALED:
            weights *= tl.load(v_scales + places, mask=keys < stop, other=0.0)[None, :]
        weighted = tl.dot(weights.to(value_tile.dtype), value_tile, input_precision=FLOAT32_PRODUCT)
        result = result * shrink[:, None] + weighted
        highest = raised

    seen = total > 0
    result = result / tl.where(seen, total, 1.0)[:, None]
    targets = (tokens * HEADS + heads) * NUM_SPLITS + split
    tl.store(out + targets[:, None] * HEAD_DIM + dims[None, :], result.to(out.dtype.element_ty), mask=in_row)
    if NUM_SPLITS > 1:
        lse = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(split_lse + targets, lse, mask=queries < num_queries)


@triton.jit
def merge_splits(parts, split_lse, out, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, NUM_SPLITS: tl.constexpr):
    """Grid (tokens * heads,): out[row] = the mean of parts[row, split], weighed by 2 ** split_lse[row, split]."""
    row = tl.program_id(0).to(tl.int64)
    splits = row * NUM_SPLITS + tl.arange(0, NUM_SPLITS)
    dims = tl.arange(0, PADDED_DIM)
    lse = tl.load(split_lse + splits)
    highest = tl.max(lse, 0)
    weights = tl.exp2(lse - tl.where(highest == float("-inf"), 0.0, highest))
    # Splits without a key have weight 0.
    mask = (weights > 0)[:, None] & (dims < HEAD_DIM)[None, :]
    values = tl.load(parts + splits[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
    total = tl.sum(weights, 0)
    merged = tl.sum(values * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * HEAD_DIM + dims, merged.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
