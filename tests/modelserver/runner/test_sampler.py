"""Sampling: each parameter against its definition, and draws that depend on nothing but seed and position."""

import math

import pytest
import torch

from textgen_server.engine.plan import Sample
from textgen_server.runner.sampler import sample, uniform
from textgen_server.sampling import SamplingParams

LOGITS = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02]))


def draw(count: int, history: list[int] | None = None, logits: torch.Tensor = LOGITS, **params) -> torch.Tensor:
    """Shares of each token among `count` draws."""
    settings = SamplingParams(greedy=False, seed=7, **params)
    tokens, _ = sample(logits.repeat(count, 1), [Sample(settings, i, history) for i in range(count)])
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / count


def logprob_of(token: int, history: list[int] | None = None, **params) -> float:
    """The reported log-probability of `token`, made the likeliest by nothing but the parameters."""
    settings = SamplingParams(greedy=False, **params)
    for position in range(500):
        tokens, logprobs = sample(LOGITS[None], [Sample(settings, position, history)])
        if tokens == [token]:
            return logprobs[0]
    raise LookupError(f"token {token} is never drawn")


def test_greedy_takes_the_likeliest_and_reports_its_probability():
    tokens, logprobs = sample(LOGITS[None], [Sample(SamplingParams(), 0)])
    assert tokens == [0]
    assert logprobs[0] == pytest.approx(math.log(0.4), abs=1e-6)


def test_draws_follow_the_probabilities():
    assert torch.allclose(draw(20000), LOGITS.exp(), atol=0.012)


def test_temperature_divides_the_logits():
    expected = (LOGITS / 0.5).softmax(-1)
    assert torch.allclose(draw(20000, temperature=0.5), expected, atol=0.012)


@pytest.mark.parametrize(("k", "kept"), [(1, 1), (2, 2), (5, 5), (6, 5), (1_000_000, 5)])
def test_top_k_keeps_k_tokens_and_any_k_is_safe(k: int, kept: int):
    expected = torch.zeros(5)
    expected[:kept] = LOGITS.exp()[:kept]
    assert torch.allclose(draw(8000, top_k=k), expected / expected.sum(), atol=0.02)


@pytest.mark.parametrize(("p", "kept"), [(0.01, 1), (0.4, 1), (0.41, 2), (0.85, 3), (0.97, 4), (0.999, 5)])
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(p: float, kept: int):
    assert int((draw(8000, top_p=p) > 0).sum()) == kept


def test_typical_p_keeps_what_is_nearest_to_the_entropy():
    probabilities = LOGITS.exp()
    entropy = -(probabilities * LOGITS).sum()
    nearest = (-LOGITS - entropy).abs().argsort()
    kept = draw(4000, typical_p=0.31) > 0
    assert kept[nearest[0]]
    assert not kept[nearest[-1]]
    assert int((draw(100, typical_p=1e-6) > 0).sum()) == 1


def test_repetition_penalty_is_ctrl_over_distinct_tokens():
    z = LOGITS.clone()
    z[1] *= 2.0  # negative logits are multiplied, once however often the token was seen
    expected = z.log_softmax(-1)
    assert logprob_of(0, [1, 1, 1], repetition_penalty=2.0) == pytest.approx(expected[0].item(), abs=1e-5)


def test_frequency_penalty_is_in_proportion_to_a_tokens_share():
    z = LOGITS.clone()
    z[1] -= 1.5 * 3 / 4
    z[2] -= 1.5 * 1 / 4
    expected = z.log_softmax(-1)
    assert logprob_of(0, [1, 1, 1, 2], frequency_penalty=1.5) == pytest.approx(expected[0].item(), abs=1e-5)


def test_a_request_draws_the_same_alone_and_in_any_batch():
    torch.manual_seed(0)
    logits = torch.randn(32, 500) * 3
    settings = [
        SamplingParams(greedy=i % 3 == 0, temperature=0.5 + i / 20, top_k=i * 5, top_p=1 - i / 50, seed=i)
        for i in range(32)
    ]
    samples = [Sample(s, 4) for s in settings]
    together = sample(logits, samples)
    for i in range(32):
        tokens, logprobs = sample(logits[i : i + 1], samples[i : i + 1])
        assert tokens == together[0][i : i + 1]
        assert logprobs == pytest.approx(together[1][i : i + 1], abs=1e-5)


def test_the_random_numbers_are_spread_evenly_over_seeds_and_positions():
    for numbers in ([uniform(seed, 0) for seed in range(4000)], [uniform(3, position) for position in range(4000)]):
        histogram = torch.histc(torch.tensor(numbers), bins=10, min=0, max=1)
        assert (histogram / 4000 - 0.1).abs().max() < 0.02
    assert uniform(2**64 - 1, 10**6) < 1


def test_half_precision_logits_are_sampled_in_single():
    tokens, logprobs = sample(LOGITS[None].bfloat16(), [Sample(SamplingParams(), 0)])
    assert tokens == [0]
    assert logprobs[0] == pytest.approx(math.log(0.4), abs=1e-2)
