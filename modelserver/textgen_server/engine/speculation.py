"""Guessing the next tokens by what followed the same words before (prompt lookup; Yang et al. 2023, "Inference with
Reference"). A wrong guess costs the arithmetic of its row, never a different text: the sampler chooses after each guess
as it would have without, and what follows a wrong guess is thrown away (scheduler.commit).
"""

NGRAMS = (3, 2)
"""Lengths of the endings that are looked up, the longest first."""
LONGEST_PAUSE = 32


class Lookup:
    """The guesses for one request."""

    def __init__(self) -> None:
        self._seen = 0
        self._followed: dict[tuple[int, ...], int] = {}  # where what follows an n-gram begins, at its last occurrence
        self._misses = 0
        self._pause = 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `tokens`, which has only grown since the last call."""
        self._learn(tokens)
        if self._pause:
            self._pause -= 1
            return []
        for length in NGRAMS:
            start = self._followed.get(tuple(tokens[-length:]))
            if start is not None and len(tokens) >= length:
                return tokens[start : start + most]
        return []

    def judge(self, accepted: int) -> None:
        """Hear how many of the last guesses were right. After misses in a row it pauses, ever longer."""
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(2**self._misses, LONGEST_PAUSE) if self._misses > 1 else 0

    def _learn(self, tokens: list[int]) -> None:
        # The ending itself is left out: nothing has followed it yet.
        for end in range(max(self._seen, 1), len(tokens)):
            for length in NGRAMS:
                if end >= length:
                    self._followed[tuple(tokens[end - length : end])] = end
        self._seen = len(tokens)
