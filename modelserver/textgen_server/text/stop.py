"""Stop strings, matched on text as it grows. One `StopMatcher` belongs to one generation (generation.py)."""

from collections.abc import Sequence


class StopMatcher:
    """Looks for stop strings wherever they lie: inside a token or across several.

    The string that is completed first wins; of several completed by the same character, the longest. So the result
    does not depend on how the text falls into tokens. Every string is followed by a Knuth-Morris-Pratt automaton,
    which costs a constant per character however long the strings are.

    Args:
        stops: strings, none empty.
        keep: True leaves the stop string in the text (TGI). False removes it (OpenAI), for which text that may be its
            beginning is held back until that is known.
    """

    def __init__(self, stops: Sequence[str], keep: bool) -> None:
        self._keep = keep
        self._patterns = [(stop, _fallbacks(stop)) for stop in stops]
        self._matched = [0] * len(stops)  # characters of each string that the text ends with
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may go out now that `text` came, and whether a stop string ends it. Not to be called after that."""
        if not self._patterns:
            return text, False
        for position, character in enumerate(text):
            if found := self._advance(character):
                kept = self._held + text[: position + 1]
                self._held = ""
                return (kept if self._keep else kept[: len(kept) - found]), True
        if self._keep:
            return text, False
        text = self._held + text
        safe = len(text) - max(self._matched)
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """The text held back, when nothing follows it."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Follow one character; the length of the longest string that it completes, or 0."""
        longest = 0
        for index, (stop, fallbacks) in enumerate(self._patterns):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = fallbacks[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                longest = max(longest, matched)
            else:
                self._matched[index] = matched
        return longest


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper prefix that is also its suffix."""
    table = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[index] != stop[matched]:
            matched = table[matched - 1]
        if stop[index] == stop[matched]:
            matched += 1
        table[index] = matched
    return table
