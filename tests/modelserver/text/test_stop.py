"""Stop strings are found wherever they lie, whatever the pieces are."""

import random

import pytest

from textgen_server.text.stop import StopMatcher


def feed(stops: list[str], pieces: list[str], keep: bool) -> tuple[list[str], bool]:
    """What goes out per piece, with what is held back at the end."""
    matcher = StopMatcher(stops, keep)
    out = []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out.append(text)
        if stopped:
            return out, True
    return [*out, matcher.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "kept", "removed"),
    [
        (["END"], ["textENDmore"], "textEND", "text"),
        (["END"], ["text", "E", "N", "D", "more"], "textEND", "text"),
        (["END"], ["tE", "NEN", "D"], "tENEND", "tEN"),
        (["aab"], ["aaa", "ab"], "aaaab", "aa"),
        (["b", "a"], ["xab"], "xa", "x"),
        (["abcd", "bc"], ["abcd"], "abc", "a"),
        (["c", "abc"], ["xab", "c"], "xabc", "x"),
        (["🦊"], ["the ", "🦊!"], "the 🦊", "the "),
        (["\n\n"], ["a\n", "\nb"], "a\n\n", "a"),
    ],
)
def test_the_first_completed_string_ends_the_text(stops: list[str], pieces: list[str], kept: str, removed: str) -> None:
    for keep, expected in ((True, kept), (False, removed)):
        out, stopped = feed(stops, pieces, keep)
        assert ("".join(out), stopped) == (expected, True)


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    assert feed(["END"], ["xE", "N", "o", "E"], keep=False) == (["x", "", "ENo", "", "E"], False)


def test_kept_stop_strings_hold_nothing_back() -> None:
    assert feed(["END"], ["xE", "N", "o", "E"], keep=True) == (["xE", "N", "o", "E", ""], False)


def test_without_stop_strings_all_text_passes() -> None:
    assert feed([], ["a", "", "b"], keep=False) == (["a", "", "b", ""], False)


@pytest.mark.parametrize("keep", [True, False])
def test_the_result_does_not_depend_on_the_pieces(keep: bool) -> None:
    choose = random.Random(1)
    for _ in range(500):
        text = "".join(choose.choices("abc", k=30))
        stops = ["".join(choose.choices("abc", k=choose.randrange(2, 6))) for _ in range(3)]
        pieces, rest = [], text
        while rest:
            cut = choose.randrange(0, 5)
            pieces.append(rest[:cut])
            rest = rest[cut:]
        out, stopped = feed(stops, pieces, keep)
        assert ("".join(out), stopped) == reference(text, stops, keep)


def reference(text: str, stops: list[str], keep: bool) -> tuple[str, bool]:
    """The definition, by trying every end."""
    for end in range(len(text) + 1):
        if found := max((len(stop) for stop in stops if text[:end].endswith(stop)), default=0):
            return text[: end if keep else end - found], True
    return text, False
