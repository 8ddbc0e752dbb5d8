"""Device code of runner/choice.py: a token for each row of logits, in one launch.

One program chooses for one row, which it reads in pieces of PLACES logits. Filters need no sorting: the logit below
which tokens are dropped is found by dividing the range of floats by four, again and again, and weighing what lies above
each point; the row stays in the multiprocessor's cache meanwhile.
"""

# Triton types arguments when it compiles.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

ROUNDS: tl.constexpr = tl.constexpr(18)
"""Of dividing 2 ** 32 floats by four, with the remainders."""

UNLIMITED: tl.constexpr = tl.constexpr(1e30)


@triton.jit
def _load(row, places, vocab):
    """Logits; behind the last one there are -inf."""
    return tl.load(row + places, mask=places < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def _order(z):
    """int32 that are ordered as the floats are."""
    bits = z.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _threshold(row, vocab, temperature, least, limit, highest, MASS: tl.constexpr, PLACES: tl.constexpr):
    """The least number of `_order` above which lies less than `limit`, in tokens, or where MASS says so in exp(z -
    highest); of those from `least` on."""
    low = tl.full([], -(1 << 31) - 1, tl.int64)
    high = tl.full([], (1 << 31) - 1, tl.int64)
    high = tl.where(limit < UNLIMITED, high, low + 1)
    rounds = tl.where(limit < UNLIMITED, ROUNDS, 0)
    for _ in range(0, rounds):
        span = high - low
        first, second, third = low + span // 4, low + span // 2, low + span * 3 // 4
        above_first = tl.zeros([PLACES], tl.float32)
        above_second = tl.zeros([PLACES], tl.float32)
        above_third = tl.zeros([PLACES], tl.float32)
        for start in range(0, vocab, PLACES):
            places = start + tl.arange(0, PLACES)
            z = _load(row, places, vocab) / temperature
            order = _order(z).to(tl.int64)
            weight = tl.exp(z - highest) if MASS else tl.full([PLACES], 1.0, tl.float32)
            weight = tl.where((places < vocab) & (order >= least), weight, 0.0)
            above_first += tl.where(order > first, weight, 0.0)
            above_second += tl.where(order > second, weight, 0.0)
            above_third += tl.where(order > third, weight, 0.0)
        enough_first = tl.sum(above_first, 0) < limit
        enough_second = tl.sum(above_second, 0) < limit
        enough_third = tl.sum(above_third, 0) < limit
        lower = tl.where(enough_first, low, tl.where(enough_second, first, tl.where(enough_third, second, third)))
        high = tl.where(enough_first, first, tl.where(enough_second, second, tl.where(enough_third, third, high)))
        low = lower
    return high


@triton.jit
def _mixed(x):
    """hashing.mix32, in uint32."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit
def _exponential(numbers):
    """choice.exponential of uint32. log(1 - u) is exact near 0 as Kahan has it: the rounding of 1 - u is known."""
    even = tl.minimum((numbers.to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1.0 - 1.0 / 16777216.0)
    rest = 1.0 - even
    inexact = tl.log(rest) * (even / tl.where(rest < 1.0, 1.0 - rest, 1.0))
    return tl.where(rest < 1.0, -inexact, even)


@triton.jit
def choose(
    logits,
    temperatures,
    raw,
    drawn,
    seeds,
    top_ks,
    top_ps,
    tokens,
    logprobs,
    stride,
    vocab,
    DRAWS: tl.constexpr,
    FILTERS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Grid (rows,). See choice.Wishes; without DRAWS only the logits are read, and with FILTERS there must be DRAWS."""
    index = tl.program_id(0)
    row = logits + index.to(tl.int64) * stride
    temperature, is_raw, is_drawn = 1.0, False, False
    seed = tl.full([], 0, tl.uint32)
    if DRAWS:
        temperature = tl.load(temperatures + index)
        is_raw = tl.load(raw + index) != 0
        is_drawn = tl.load(drawn + index) != 0
        seed = tl.load(seeds + index).to(tl.uint32)
    least = tl.full([], -(1 << 31), tl.int64)
    if FILTERS:
        k, p = tl.load(top_ks + index), tl.load(top_ps + index)
        kept = tl.where((k > 0) & (k < vocab), k.to(tl.float32), UNLIMITED)
        least = _threshold(row, vocab, temperature, least, kept, 0.0, False, PLACES)
        highest = tl.full([PLACES], float("-inf"), tl.float32)
        for start in range(0, vocab, PLACES):
            z = _load(row, start + tl.arange(0, PLACES), vocab) / temperature
            highest = tl.maximum(highest, z)
        top = tl.max(highest, 0)
        mass = tl.zeros([PLACES], tl.float32)
        for start in range(0, vocab, PLACES):
            z = _load(row, start + tl.arange(0, PLACES), vocab) / temperature
            mass += tl.where(_order(z).to(tl.int64) >= least, tl.exp(z - top), 0.0)
        limit = tl.where(p < 1.0, p * tl.sum(mass, 0), UNLIMITED)
        least = tl.maximum(least, _threshold(row, vocab, temperature, least, limit, top, True, PLACES))

    best = tl.full([PLACES], float("-inf"), tl.float32)
    chosen = tl.full([PLACES], 0, tl.int32)
    reported = tl.full([PLACES], float("-inf"), tl.float32)
    highest = tl.full([PLACES], float("-inf"), tl.float32)
    total = tl.zeros([PLACES], tl.float32)
    for start in range(0, vocab, PLACES):
        places = start + tl.arange(0, PLACES)
        plain = _load(row, places, vocab)
        z = plain / temperature
        if FILTERS:
            z = tl.where(_order(z).to(tl.int64) >= least, z, float("-inf"))
        score = z
        if DRAWS:
            noise = _exponential(_mixed(seed ^ _mixed(places.to(tl.uint32))))
            score = tl.where(is_drawn, z - tl.log(noise), z)
        counted = tl.where(is_raw, plain, z)
        better = score > best
        best = tl.where(better, score, best)
        chosen = tl.where(better, places, chosen)
        reported = tl.where(better, counted, reported)
        raised = tl.maximum(highest, counted)
        anchor = tl.where(raised == float("-inf"), 0.0, raised)
        total = total * tl.exp(highest - anchor) + tl.exp(counted - anchor)
        highest = raised
    token = tl.min(tl.where(best == tl.max(best, 0), chosen, vocab), 0)
    value = tl.max(tl.where(chosen == token, reported, float("-inf")), 0)
    top = tl.max(highest, 0)
    mass = tl.sum(tl.where(highest == float("-inf"), 0.0, total * tl.exp(highest - top)), 0)
    tl.store(tokens + index, token.to(tl.int64))
    tl.store(logprobs + index, value - top - tl.log(mass))
