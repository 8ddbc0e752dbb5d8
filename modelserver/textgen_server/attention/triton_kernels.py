"""Device code of attention/triton.py: attend over the paged cache, and merge what several programs made of its parts.

triton_writing.py has the layout of the pools. One program attends for ROWS rows of one KV head, where row r of a
sequence is query r // GROUP of query head r % GROUP of the group: a group's heads share each load of keys, for any
ratio of heads, and a decode is a sequence of GROUP rows. Softmax runs online over tiles of KEYS keys (Milakov and
Gimelshein 2018; Dao et al. 2022), in powers of two.

With SPLITS several programs take a part of the keys each (flash-decoding), and `merge_splits` weighs their results by
their log-sum-exp. How many do is decided here, for each sequence by its own length and so that all of the launch's
programs have about as much to read: a captured step is replayed with any lengths. The launch only bounds their number.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from textgen_server.attention.triton_tiles import attend_tiles, tiles_of_a_program


@triton.jit(do_not_specialize=["first_sequence", "count", "first_token", "table_stride", "programs"])
def attend(
    q,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    out,
    parts,
    parts_lse,
    query_start,
    context_lens,
    block_tables,
    alibi_slopes,
    relative_bias,
    first_keys,
    first_sequence,
    count,
    first_token,
    programs,
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
    DECODES: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Grid (row tiles * KV heads, count sequences from first_sequence, most splits).

    out is [tokens, HEADS, HEAD_DIM]. With SPLITS, a row whose keys several programs share goes to float32 parts
    [tokens from first_token on, HEADS, most splits, HEAD_DIM] instead; parts_lse, [.., most splits] in log 2, is -inf
    where there is no part, and first of all inf where the row is in `out`. With DECODES each sequence has one query.
    WINDOW, SOFTCAP and DISTANCES, the columns of relative_bias [HEADS, DISTANCES], are 0 where there is none.
    """
    KV_HEADS: tl.constexpr = HEADS // GROUP
    kv_head = tl.program_id(0) % KV_HEADS
    # The last queries have the most keys: they begin first.
    tile = tl.num_programs(0) // KV_HEADS - 1 - tl.program_id(0) // KV_HEADS
    sequence = first_sequence + tl.program_id(1)
    split = tl.program_id(2)

    own_token = tl.load(query_start + sequence)
    num_queries = tl.load(query_start + sequence + 1) - own_token
    if tile * ROWS >= num_queries * GROUP:
        return
    cached = tl.load(context_lens + sequence) - num_queries

    rows = tile * ROWS + tl.arange(0, ROWS)
    queries = rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    positions = cached + queries
    rows_exist = queries < num_queries
    dims = tl.arange(0, PADDED_DIM)
    in_row = rows_exist[:, None] & (dims < HEAD_DIM)[None, :]
    tokens = (own_token + queries).to(tl.int64)

    first_key = 0
    if HAS_FIRST_KEYS:
        first_key = tl.load(first_keys + sequence)
    first_query = (tile * ROWS) // GROUP
    last_query = tl.minimum((tile * ROWS + ROWS - 1) // GROUP, num_queries - 1)
    if WINDOW > 0:
        first_key = tl.maximum(first_key, cached + first_query - WINDOW + 1)
    end_key = cached + last_query + 1
    start, stop, splits = first_key, end_key, 1
    row_parts = ((tokens - first_token) * HEADS + heads) * tl.num_programs(2) + split
    if SPLITS:
        share = tiles_of_a_program(
            query_start, context_lens, first_keys, first_sequence, count, KV_HEADS, programs, GROUP, WINDOW,
            HAS_FIRST_KEYS, ROWS, KEYS,
        )  # fmt: skip
        tiles = tl.maximum(tl.cdiv(end_key - first_key, KEYS), 1)
        splits = tl.minimum(tl.cdiv(tiles, share), tl.num_programs(2))
        if split >= splits:
            tl.store(parts_lse + row_parts, tl.full([ROWS], float("-inf"), tl.float32), mask=rows_exist)
            return
        share = tl.cdiv(tiles, splits) * KEYS
        start = first_key + split * share
        stop = tl.minimum(start + share, end_key)

    q_rows = tokens * q_token_stride + heads * q_head_stride
    q_tile = tl.load(q + q_rows[:, None] + dims[None, :], mask=in_row, other=0.0)
    slopes = positions.to(tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(alibi_slopes + heads, mask=rows_exist, other=0.0)
    table = block_tables + sequence * table_stride
    head_start = kv_head * head_stride
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    low, high = start, start
    if not DECODES:
        # Tiles from `low` to `high` are seen by all rows: they need no mask.
        if WINDOW > 0:
            hidden = tl.maximum(cached + last_query - WINDOW + 1 - start, 0)
            low = tl.minimum(start + tl.cdiv(hidden, KEYS) * KEYS, stop)
            highest, total, result = attend_tiles(
                highest, total, result, start, low, stop, q_tile, rows_exist, heads, positions, slopes, dims, table,
                k_cache, v_cache, k_scales, v_scales, relative_bias, scale, block_stride, head_start,
                HEAD_DIM, PADDED_DIM, BLOCK_SIZE, SCALED, WINDOW, SOFTCAP, HAS_ALIBI, DISTANCES, KEYS, True, True,
            )  # fmt: skip
        seen_by_all = tl.minimum(cached + first_query + 1, stop)
        high = low + tl.maximum(seen_by_all - low, 0) // KEYS * KEYS
        highest, total, result = attend_tiles(
            highest, total, result, low, high, stop, q_tile, rows_exist, heads, positions, slopes, dims, table,
            k_cache, v_cache, k_scales, v_scales, relative_bias, scale, block_stride, head_start,
            HEAD_DIM, PADDED_DIM, BLOCK_SIZE, SCALED, WINDOW, SOFTCAP, HAS_ALIBI, DISTANCES, KEYS, False, False,
        )  # fmt: skip
    highest, total, result = attend_tiles(
        highest, total, result, high, stop, stop, q_tile, rows_exist, heads, positions, slopes, dims, table,
        k_cache, v_cache, k_scales, v_scales, relative_bias, scale, block_stride, head_start,
        HEAD_DIM, PADDED_DIM, BLOCK_SIZE, SCALED, WINDOW, SOFTCAP, HAS_ALIBI, DISTANCES, KEYS, True, not DECODES,
    )  # fmt: skip

    seen = total > 0
    result = result / tl.where(seen, total, 1.0)[:, None]
    if splits == 1:
        targets = (tokens * HEADS + heads) * HEAD_DIM
        tl.store(out + targets[:, None] + dims[None, :], result.to(out.dtype.element_ty), mask=in_row)
        if SPLITS:
            tl.store(parts_lse + row_parts, tl.full([ROWS], float("inf"), tl.float32), mask=rows_exist)
    else:
        tl.store(parts + row_parts[:, None] * HEAD_DIM + dims[None, :], result, mask=in_row)
        lse = tl.where(seen, highest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(parts_lse + row_parts, lse, mask=rows_exist)


@triton.jit
def merge_splits(parts, parts_lse, out, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, MOST: tl.constexpr):
    """Grid (tokens * heads,): out[row] = the mean of parts[row, split], weighed by 2 ** parts_lse[row, split]; rows
    that are there already stay."""
    row = tl.program_id(0).to(tl.int64)
    splits = row * MOST + tl.arange(0, MOST)
    dims = tl.arange(0, PADDED_DIM)
    lse = tl.load(parts_lse + splits)
    highest = tl.max(lse, 0)
    if highest == float("inf"):
        return
    weights = tl.exp2(lse - tl.where(highest == float("-inf"), 0.0, highest))
    # Splits without a key have weight 0.
    mask = (weights > 0)[:, None] & (dims < HEAD_DIM)[None, :]
    values = tl.load(parts + splits[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
    total = tl.sum(weights, 0)
    merged = tl.sum(values * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * HEAD_DIM + dims, merged.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
