"""Device code that triton_kernels.py's kernel is made of: its inner loop, and how much each program takes."""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
# Products of float32 tiles use three products of TF32, nearly as exact and on tensor cores; others are not concerned.
FLOAT32_PRODUCT: tl.constexpr = tl.constexpr("tf32x3")
# Tiles of keys that are worth a program of their own, and its share of the merging.
_LEAST_TILES: tl.constexpr = tl.constexpr(2)
_LENGTHS: tl.constexpr = tl.constexpr(128)


@triton.jit
def tiles_of_a_program(
    query_start,
    context_lens,
    first_keys,
    first_sequence,
    count,
    kv_heads,
    programs,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    HAS_FIRST_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """How many tiles of keys each takes when `programs` programs share those of all `count` sequences."""
    total = tl.zeros([_LENGTHS], dtype=tl.int32)
    for start in range(0, count, _LENGTHS):
        index = start + tl.arange(0, _LENGTHS)
        exists = index < count
        sequences = first_sequence + index
        keys = tl.load(context_lens + sequences, mask=exists, other=0)
        if HAS_FIRST_KEYS:
            keys -= tl.load(first_keys + sequences, mask=exists, other=0)
        if WINDOW > 0:
            keys = tl.minimum(keys, WINDOW + ROWS)
        queries = tl.load(query_start + sequences + 1, mask=exists, other=0)
        queries -= tl.load(query_start + sequences, mask=exists, other=0)
        total += tl.cdiv(queries * GROUP, ROWS) * tl.cdiv(keys, KEYS)
    return tl.maximum(tl.cdiv(tl.sum(total, 0) * kv_heads, programs), _LEAST_TILES)


@triton.jit
def attend_tiles(
    highest,
    total,
    result,
    first,
    last,
    end_key,
    q_tile,
    rows_exist,
    heads,
    positions,
    slopes,
    dims,
    table,
    k_cache,
    v_cache,
    k_scales,
    v_scales,
    relative_bias,
    scale,
    block_stride,
    head_start,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SCALED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    DISTANCES: tl.constexpr,
    KEYS: tl.constexpr,
    BOUNDED: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """The state of the softmax after the tiles of keys from `first` to `last`.

    With BOUNDED, no key from `end_key` on counts; with CAUSAL, for no row one behind its position or out of its window.
    """
    for tile_start in range(first, last, KEYS):
        keys = tile_start + tl.arange(0, KEYS)
        exists = keys < end_key
        in_tile = (dims < HEAD_DIM)[None, :]
        if BOUNDED:
            in_tile = in_tile & exists[:, None]
            blocks = tl.load(table + keys // BLOCK_SIZE, mask=exists, other=0)
        else:
            blocks = tl.load(table + keys // BLOCK_SIZE)
        starts = blocks.to(tl.int64) * block_stride + head_start
        cells = starts + (keys % BLOCK_SIZE) * HEAD_DIM
        places_of_scales = (starts + BLOCK_SIZE * HEAD_DIM) // 4 + keys % BLOCK_SIZE
        if PADDED_DIM == HEAD_DIM and not BOUNDED:
            key_tile = tl.load(k_cache + cells[:, None] + dims[None, :]).to(q_tile.dtype)
            value_tile = tl.load(v_cache + cells[:, None] + dims[None, :]).to(q_tile.dtype)
        else:
            key_tile = tl.load(k_cache + cells[:, None] + dims[None, :], mask=in_tile, other=0.0).to(q_tile.dtype)
            value_tile = tl.load(v_cache + cells[:, None] + dims[None, :], mask=in_tile, other=0.0).to(q_tile.dtype)
        logits = tl.dot(q_tile, tl.trans(key_tile), input_precision=FLOAT32_PRODUCT)
        if SCALED:
            logits *= scale * tl.load(k_scales + places_of_scales, mask=exists, other=0.0)[None, :]
        else:
            logits *= scale
        if SOFTCAP > 0:
            # tanh x = 1 - 2 / (e^2x + 1), which saturates without overflow
            logits = SOFTCAP * (1 - 2 / (tl.exp2(logits * (2 * LOG2_E / SOFTCAP)) + 1))
        distances = positions[:, None] - keys[None, :]
        if HAS_ALIBI:
            logits -= slopes[:, None] * distances.to(tl.float32)
        if DISTANCES > 0:
            column = tl.minimum(tl.maximum(distances, 0), DISTANCES - 1)
            in_table = rows_exist[:, None] & exists[None, :]
            logits += tl.load(relative_bias + heads[:, None] * DISTANCES + column, mask=in_table, other=0.0)
        logits *= LOG2_E
        if CAUSAL:
            visible = (distances >= 0) & exists[None, :]
            if WINDOW > 0:
                visible = visible & (distances < WINDOW)
            logits = tl.where(visible, logits, float("-inf"))
        elif BOUNDED:
            logits = tl.where(exists[None, :], logits, float("-inf"))

        raised = tl.maximum(highest, tl.max(logits, 1))
        # A row that has seen no key yet keeps weights of 0 instead of exp(-inf + inf).
        anchor = tl.where(raised == float("-inf"), 0.0, raised)
        weights = tl.exp2(logits - anchor[:, None])
        shrink = tl.exp2(highest - anchor)
        total = total * shrink + tl.sum(weights, 1)
        if SCALED:
            weights *= tl.load(v_scales + places_of_scales, mask=exists, other=0.0)[None, :]
        weighted = tl.dot(weights.to(value_tile.dtype), value_tile, input_precision=FLOAT32_PRODUCT)
        result = result * shrink[:, None] + weighted
        highest = raised
    return highest, total, result
