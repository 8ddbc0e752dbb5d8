"""The soft watermark of Kirchenbauer et al. 2023 ("A Watermark for Large Language Models", arXiv:2301.10226).

The token before decides, by a hash, which tokens are green. A writer with the watermark raises their logits, and so
takes more of them than chance would. Whoever knows the key can count them.

The definition of green is here, once, for whoever needs it: plain integers, numpy arrays and torch tensors, on the CPU
or on a GPU, give the same. The sampler marks; the function `detect` and the command `textgen-server detect-watermark`
find. No torch.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textgen_server.hashing import MASK, mix32


@dataclass(frozen=True, slots=True)
class Watermark:
    """The parameters that writer and detector share.

    Attributes:
        gamma: share of the vocabulary that is green, in (0, 1).
        delta: what is added to the logits of green tokens; the detector does not need it.
        key: decides which tokens are green; from 0 to 2^64 - 1.
    """

    gamma: float = 0.5
    delta: float = 2.0
    key: int = 15485863

    def is_green(self, previous: Any, token: Any) -> Any:
        """Whether `token` is green after `previous`: ints, or int64 arrays or tensors that broadcast. Each token is
        green by itself with probability gamma, so a green list has about gamma * vocabulary tokens."""
        key = mix32(mix32(self.key & MASK) ^ (self.key >> 32))
        return mix32(mix32(key ^ previous) ^ mix32(token)) < round(self.gamma * 2**32)


PUBLIC = Watermark()
"""The defaults, which everybody knows."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What a text says about its origin.

    Attributes:
        total: pairs of neighbouring tokens that were counted.
        green: of those, whose second is green.
        z: by how many standard deviations `green` exceeds what chance gives; 0 where nothing was counted.
        p: probability that a text written without the watermark has such a z or a higher one.
    """

    total: int
    green: int
    z: float
    p: float


def detect(tokens: Sequence[int], watermark: Watermark) -> Detection:
    """Count green tokens: the one-sided z-test of Kirchenbauer et al. 2023, z = (green - gamma T) / sqrt(T gamma
    (1 - gamma)), with p by the normal distribution.

    A pair of tokens that comes again is counted once, as in Kirchenbauer et al. 2023 ("On the Reliability of
    Watermarks", arXiv:2306.04634) and Fernandez et al. 2023 ("Three Bricks", arXiv:2308.00113): repetitions are not
    independent, and repetitive human text would be taken for watermarked.
    """
    pairs = set(itertools.pairwise(tokens))
    total, green = len(pairs), sum(watermark.is_green(previous, token) for previous, token in pairs)
    gamma = watermark.gamma
    z = (green - gamma * total) / math.sqrt(total * gamma * (1 - gamma)) if total else 0.0
    return Detection(total, green, z, 0.5 * math.erfc(z / math.sqrt(2)))
