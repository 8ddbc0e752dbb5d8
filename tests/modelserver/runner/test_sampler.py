"""Sampling: each parameter against its definition, and draws that depend on nothing but seed and position."""

import math

import numpy as np
import pytest
import torch

from textgen_server.engine.plan import Sample, StepResult
from textgen_server.native import library
from textgen_server.runner import sampler
from textgen_server.runner.choice import exponential
from textgen_server.runner.sampler import masks_of, score
from textgen_server.sampling import SamplingParams


def sample(*args) -> StepResult:
    return sampler.sample(*args).read()


LOGITS = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02]))


def draw(count: int, history: list[int] | None = None, logits: torch.Tensor = LOGITS, **params) -> torch.Tensor:
    """Shares of each token among `count` draws."""
    settings = SamplingParams(greedy=False, seed=7, **params)
    tokens = sample(logits.repeat(count, 1), [Sample(settings, i, history) for i in range(count)]).tokens
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / count


def logprob_of(token: int, history: list[int] | None = None, **params) -> float:
    """The reported log-probability of `token`, made the likeliest by nothing but the parameters."""
    settings = SamplingParams(greedy=False, **params)
    for position in range(500):
        result = sample(LOGITS[None], [Sample(settings, position, history)])
        if result.tokens == [token]:
            return result.logprobs[0]
    raise LookupError(f"token {token} is never drawn")


def test_greedy_takes_the_likeliest_and_reports_its_probability():
    result = sample(LOGITS[None], [Sample(SamplingParams(), 0)])
    assert result.tokens == [0]
    assert result.logprobs[0] == pytest.approx(math.log(0.4), abs=1e-6)


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
        alone = sample(logits[i : i + 1], samples[i : i + 1])
        assert alone.tokens == together.tokens[i : i + 1]
        assert alone.logprobs == pytest.approx(together.logprobs[i : i + 1], abs=1e-5)


def test_each_seed_position_and_token_has_a_draw_of_its_own():
    """Among 1000 tokens that are all as likely, each has its turn, whatever is counted up."""
    flat = torch.zeros(4000, 1000)
    for key in ("seed", "position"):
        samples = [
            Sample(SamplingParams(greedy=False, seed=i if key == "seed" else 3), i if key == "position" else 0)
            for i in range(4000)
        ]
        tokens = torch.tensor(sample(flat, samples).tokens)
        assert (torch.histc(tokens.float(), bins=10, min=0, max=1000) / 4000 - 0.1).abs().max() < 0.02
        assert abs((tokens[1:] > tokens[:-1]).float().mean() - 0.5) < 0.03


def test_the_numbers_of_a_draw_are_exponential():
    numbers = exponential(torch.arange(0, 2**32, 2**32 // 100_000))
    assert numbers.mean() == pytest.approx(1, abs=0.001)
    assert (numbers < 0.5).float().mean() == pytest.approx(1 - math.exp(-0.5), abs=0.001)
    extremes = exponential(torch.tensor([0, 2**32 - 1]))
    assert 0 < extremes[0] < 1e-9
    assert 16 < extremes[1] < 17


def test_rounding_of_logits_hardly_ever_changes_a_draw():
    """Matrix products of other shapes round otherwise, by some 1e-5 in a model's logits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 5000, generator=generator) * 3
    rounded = logits + torch.randn(300, 5000, generator=generator) * 1e-5
    samples = [Sample(SamplingParams(greedy=False, seed=i), i) for i in range(300)]
    assert sample(logits, samples).tokens == sample(rounded, samples).tokens


def test_half_precision_logits_are_sampled_in_single():
    result = sample(LOGITS[None].bfloat16(), [Sample(SamplingParams(), 0)])
    assert result.tokens == [0]
    assert result.logprobs[0] == pytest.approx(math.log(0.4), abs=1e-2)


def one(params: SamplingParams, **sample_fields):
    """The result of one greedy choice."""
    return sample(LOGITS[None], [Sample(params, sample_fields.pop("position", 0), **sample_fields)])


def test_openai_penalties_count_the_output_alone():
    history = [0, 0, 0, 1, 1, 2]  # the prompt is [0, 0, 0]
    params = SamplingParams(count_penalty=0.5, presence_penalty=0.25, top_tokens=5)
    z = LOGITS - torch.tensor([0, 2 * 0.5 + 0.25, 0.5 + 0.25, 0, 0])
    (top,) = one(params, position=3, history=history).tops
    assert dict(top) == pytest.approx(dict(enumerate(z.log_softmax(-1).tolist())), abs=1e-5)


def test_logit_bias_is_added_before_the_choice():
    result = one(SamplingParams(logit_bias=((3, 100.0),)))
    assert (result.tokens, result.logprobs) == ([3], pytest.approx([0.0], abs=1e-5))
    assert 0 not in one(SamplingParams(logit_bias=((0, -100.0),))).tokens


def test_top_tokens_are_the_likeliest_in_order_and_only_for_those_who_ask():
    samples = [Sample(SamplingParams(top_tokens=count), 0) for count in (0, 2, 9)]
    none, two, all_of_them = sample(LOGITS.repeat(3, 1), samples).tops
    assert none == ()
    assert two == ((0, pytest.approx(math.log(0.4), abs=1e-5)), (1, pytest.approx(math.log(0.3), abs=1e-5)))
    assert [token for token, _ in all_of_them] == [0, 1, 2, 3, 4]
    assert sample(LOGITS[None], samples[:1]).tops == []


def test_a_token_has_the_same_log_probability_among_the_likeliest_to_the_last_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "_loaded", [])
    if not library.use():
        pytest.skip("the CPU's kernels are not there: NO COMPILER")
    logits = torch.randn(20, 50_000, generator=torch.Generator().manual_seed(0)) * 4 + 20
    result = sample(logits, [Sample(SamplingParams(top_tokens=1), 0)] * 20)
    assert [((token, logprob),) for token, logprob in zip(result.tokens, result.logprobs, strict=True)] == result.tops


def test_tokens_that_filters_leave_out_are_no_alternatives():
    (top,) = one(SamplingParams(top_k=2, top_tokens=5)).tops
    assert [token for token, _ in top] == [0, 1]


def test_raw_logprobs_do_not_know_of_temperature_penalties_and_filters():
    params = {"temperature": 0.2, "top_k": 1, "logit_bias": ((2, 50.0),), "top_tokens": 2}
    result = one(SamplingParams(**params, raw_logprobs=True))
    assert result.tokens == [2]
    assert result.logprobs[0] == pytest.approx(math.log(0.2), abs=1e-5)
    assert [token for token, _ in result.tops[0]] == [0, 1]
    assert one(SamplingParams(**params)).logprobs[0] == pytest.approx(0.0, abs=1e-5)


class Only:
    """A constraint that lets some tokens follow."""

    finished = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        for mask, constraint in zip(masks, constraints, strict=True):
            for token in constraint.tokens:
                mask[token // 32] |= np.uint32(1 << token % 32).astype(np.int32)

    def accept(self, token: int) -> None:
        assert token in self.tokens


def test_a_constraint_leaves_only_what_its_mask_has():
    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    allowed = [Only(31), Only(3, 64), None]
    samples = [Sample(SamplingParams(greedy=False, seed=2), 0, constraint=constraint) for constraint in allowed]
    result = sample(logits, samples, masks_of(samples, 70))
    assert result.tokens[0] == 31
    assert result.logprobs[0] == pytest.approx(0.0, abs=1e-5)
    assert result.tokens[1] in (3, 64)
    assert result.tokens[2] == sample(logits[2:], samples[2:]).tokens[0]


def test_given_tokens_are_scored_by_the_logits_as_they_are():
    scores = score(torch.stack([LOGITS, LOGITS.flip(0)]), torch.tensor([1, 1]), top=1).read()
    assert scores.logprobs == pytest.approx([math.log(0.3), math.log(0.08)], abs=1e-5)
    assert [top[0][0] for top in scores.tops] == [0, 4]
    assert score(LOGITS[None], torch.tensor([2]), top=0).read().tops == []
