"""How much of a long prompt a step computes beside requests that decode, whose next tokens wait for it.

A step with a chunk should take at most 1 + SHARE times as long as one that only decodes. How long prompt tokens take is
learned from the steps themselves. It delays the prompt, and changes no text. It does not bind

- where nobody decodes, or more prompts wait than requests decode: then throughput counts;
- prompts of up to SHORT_TOKENS: with them soon in the batch, every step is worth more.
"""

from textgen_server.engine.plan import StepPlan

SHARE = 0.8
SHORT_TOKENS = 256
LEAST = 1 / 32
"""Of the largest chunk: smaller ones are not worth what a step with prompt tokens costs beyond them."""
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

    def chunk(self, decodes: int, prompts: int) -> int:
        """Tokens of long prompts in a step with so many decodes, while so many prompts are computed or could be."""
        if not decodes or prompts > decodes or self._decode_seconds is None or self._token_seconds is None:
            return self._most
        fitting = int(SHARE * self._decode_seconds / self._token_seconds)
        return min(self._most, max(fitting, int(self._most * LEAST), 1))

    def observe(self, plan: StepPlan, seconds: float) -> None:
        """Learn from a step that took `seconds` in the executor."""
        prefills = plan.prefills
        if not prefills:
            self._decode_seconds = _mean(self._decode_seconds, seconds)
            return
        tokens = sum(len(item.tokens) for item in prefills)
        others = (self._decode_seconds or 0.0) if len(prefills) < len(plan.items) else 0.0
        self._token_seconds = _mean(self._token_seconds, max(seconds - others, seconds * TRUSTED) / tokens)


def _mean(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
