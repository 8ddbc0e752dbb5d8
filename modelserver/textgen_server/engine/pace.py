"""How much of a long prompt a step computes beside requests that decode, whose next tokens wait for it.

A step with a chunk should take at most 1 + SHARE times as long as one that only decodes. How long prompt tokens take is
learned from the steps themselves. It delays the prompt, and changes no text. It does not bind

- where nobody decodes, or several prompts wait, more than half as many as requests decode: then throughput counts;
- prompts of up to SHORT_TOKENS: with them soon in the batch, every step is worth more.
"""

from textgen_server.engine.plan import StepPlan
from textgen_server.engine.request import Request

SHARE = 0.8
SHORT_TOKENS = 256
LEAST = 1 / 32
"""Of the largest chunk: smaller ones are not worth what a step with prompt tokens costs beyond them."""
EVERY = 8
"""One in so many steps is without long prompts."""
WEIGHT = 0.25
"""Of the newest step in the averages."""
TRUSTED = 0.25
"""A prompt token takes at least this part of a mean token of its step. So a chunk is at most SHARE / TRUSTED times as
long as the one before, however wrong the seconds of a decoding step have become."""


class Pace:
    """Averages over the last steps.

    Args:
        most: prompt tokens of one step.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None
        self._mixed = 0  # steps since one that only decoded

    def chunk(self, decodes: int, prompts: int) -> int:
        """Tokens of long prompts in a step with so many decodes, while so many prompts are computed or could be. 0 at
        times, so that it shows how long decoding takes by now."""
        crowded = not decodes or prompts > max(decodes / 2, 1)
        if crowded or self._decode_seconds is None or self._token_seconds is None:
            return self._most
        if self._mixed % EVERY == EVERY - 1:
            return 0
        fitting = int(SHARE * self._decode_seconds / self._token_seconds)
        return min(self._most, max(fitting, int(self._most * LEAST), 1))

    def observe(self, plan: StepPlan, seconds: float) -> None:
        """Learn from a step that took `seconds` in the executor."""
        prefills = plan.prefills
        if not prefills:
            self._decode_seconds = _mean(self._decode_seconds, seconds)
            self._mixed = 0
            return
        self._mixed += len(prefills) < len(plan.items)
        # Reading the weights takes as long for a prompt alone.
        beyond = max(seconds - (self._decode_seconds or 0.0), seconds * TRUSTED)
        self._token_seconds = _mean(self._token_seconds, beyond / sum(len(item.tokens) for item in prefills))


class Budget:
    """Prompt tokens that a step may still compute.

    Args:
        tokens: in all.
        of_long: of long prompts; each of them gets one token at least, unless it is 0.
    """

    def __init__(self, tokens: int, of_long: int) -> None:
        self._tokens = tokens
        self._of_long = of_long
        self._least_of_long = min(of_long, 1)

    def most(self, request: Request) -> int:
        """Tokens that the request's next chunk may have."""
        if _is_long(request):
            return min(self._tokens, max(self._of_long, self._least_of_long))
        return self._tokens

    def allows(self, request: Request) -> bool:
        """True when it may have a chunk."""
        return request.shortest_chunk <= self.most(request)

    def spend(self, request: Request, tokens: int) -> None:
        """The request's chunk has so many tokens."""
        self._tokens -= tokens
        self._of_long -= tokens if _is_long(request) else 0


def _is_long(request: Request) -> bool:
    # An encoder's prompt cannot be divided.
    return request.length > SHORT_TOKENS and request.shortest_chunk == 1


def _mean(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
