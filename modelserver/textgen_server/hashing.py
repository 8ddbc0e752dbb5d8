"""A hash that is the same wherever it is computed. The watermark and the sampler's draws rest on it."""

from typing import Any

MASK = 0xFFFFFFFF


def mix32(x: Any) -> Any:
    """A bijection of [0, 2^32) in which every bit of the result depends on every bit of `x`: lowbias32, from Wellons'
    hash prospector.

    For ints, int64 arrays and int64 tensors on any device: both factors are below 2^31, so that no product reaches
    2^63 and nothing overflows.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & MASK
    return x ^ (x >> 15)
