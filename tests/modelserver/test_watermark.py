"""The watermark: one definition of green, wherever it is computed, and a test that tells marked texts from others."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textgen_server.engine.plan import Sample
from textgen_server.runner.sampler import masks_of, sample
from textgen_server.sampling import SamplingParams
from textgen_server.watermark import PUBLIC, Watermark, detect

TOKENS = st.integers(0, 2**31 - 1)
MARKS = st.builds(Watermark, st.floats(0.01, 0.99), st.just(2.0), st.integers(0, 2**64 - 1))


@given(mark=MARKS, previous=st.lists(TOKENS, min_size=1, max_size=5), tokens=st.lists(TOKENS, min_size=1, max_size=40))
def test_integers_numpy_and_torch_agree_on_what_is_green(mark, previous, tokens):
    by_integers = [[mark.is_green(before, token) for token in tokens] for before in previous]
    assert mark.is_green(np.array(previous)[:, None], np.array(tokens)).tolist() == by_integers
    assert mark.is_green(torch.tensor(previous)[:, None], torch.tensor(tokens)).tolist() == by_integers


def test_the_definition_does_not_change():
    """A text that was marked once must stay detectable."""
    lists = ["".join(".g"[PUBLIC.is_green(previous, token)] for token in range(16)) for previous in (0, 49151)]
    assert lists == ["..ggg.gg.g.g.g.g", "gg..g...g....gg."]
    assert sum(Watermark(0.25, 2.0, 2**64 - 1).is_green(5, token) for token in range(1000)) == 268


@pytest.mark.parametrize("gamma", [0.1, 0.25, 0.5, 0.9])
def test_the_green_list_has_its_share_of_the_vocabulary_after_every_token(gamma):
    green = Watermark(gamma).is_green(np.arange(300)[:, None], np.arange(20_000))
    shares = green.mean(axis=1)
    deviation = math.sqrt(gamma * (1 - gamma) / 20_000)
    assert abs(shares.mean() - gamma) < deviation
    assert abs(shares - gamma).max() < 5 * deviation


def test_green_lists_of_neighbours_and_of_other_keys_are_independent():
    tokens = np.arange(20_000)
    lists = [Watermark(0.5, 2.0, key).is_green(previous, tokens) for key in (1, 2, 2**32 + 1) for previous in (7, 8, 9)]
    for i, first in enumerate(lists):
        for second in lists[:i]:
            assert abs((first == second).mean() - 0.5) < 0.02


def test_texts_without_the_mark_have_the_scores_of_chance():
    draw = random.Random(3)
    scores = [detect([draw.randrange(50_000) for _ in range(200)], PUBLIC).z for _ in range(600)]
    assert abs(np.mean(scores)) < 0.15
    assert abs(np.std(scores) - 1) < 0.1
    assert max(scores) < 4.5


def test_the_score_and_its_probability_are_the_papers():
    mark = Watermark(0.25)
    tokens = list(range(101))
    result = detect(tokens, mark)
    assert result.total == 100
    assert result.green == sum(mark.is_green(token, token + 1) for token in range(100))
    assert result.z == pytest.approx((result.green - 25) / math.sqrt(100 * 0.25 * 0.75))
    assert result.p == pytest.approx(0.5 * math.erfc(result.z / math.sqrt(2)))


def test_repetitions_are_counted_once():
    assert detect([1, 2, 3] * 50, PUBLIC).total == 3


@pytest.mark.parametrize("tokens", [[], [5]])
def test_a_text_too_short_to_judge_has_no_score(tokens):
    result = detect(tokens, PUBLIC)
    assert (result.total, result.green, result.z, result.p) == (0, 0, 0.0, 0.5)


def test_the_sampler_raises_the_logits_of_the_green_list_and_of_no_other_row():
    mark = Watermark(0.5, 3.0, 99)
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    wanted = SamplingParams(watermark=True, top_tokens=1000)
    samples = [
        Sample(wanted, 0, previous=17),
        Sample(SamplingParams(top_tokens=1000), 0),
        Sample(wanted, 4, previous=3),
    ]
    tops = sample(logits, samples, watermark=mark).read().tops
    for row, previous in ((0, 17), (2, 3)):
        expected = logits[row] + 3.0 * torch.tensor([mark.is_green(previous, token) for token in range(1000)])
        assert dict(tops[row]) == pytest.approx(dict(enumerate(expected.log_softmax(-1).tolist())), abs=1e-4)
    assert dict(tops[1]) == pytest.approx(dict(enumerate(logits[1].log_softmax(-1).tolist())), abs=1e-4)


class OnlyRed:
    """A grammar that allows what is not green after token 0."""

    finished = False

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        bits = ~PUBLIC.is_green(0, np.arange(masks.shape[1] * 32))
        masks[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> None:
        raise NotImplementedError


def test_a_grammar_that_allows_nothing_green_is_kept():
    samples = [Sample(SamplingParams(watermark=True), 0, constraint=OnlyRed())]
    (token,) = sample(torch.zeros(1, 640), samples, masks_of(samples, 640)).tokens
    assert not PUBLIC.is_green(0, token)
