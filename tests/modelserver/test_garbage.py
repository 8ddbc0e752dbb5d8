"""When garbage is collected."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from textgen_server import garbage


class Knot:
    """Only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("quiet", "left"), [(True, garbage.SOME), (False, garbage.MANY)])
def test_garbage_is_left_until_there_is_enough_of_it_for_the_moment(no_collector, quiet, left):
    knot = weakref.ref(Knot())
    garbage.tidy(quiet)
    assert knot() is not None
    kept = [[] for _ in range(left + 100)]
    garbage.tidy(quiet)
    assert knot() is None
    assert len(kept) > left
