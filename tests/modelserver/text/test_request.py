"""What clients ask for becomes the engine's parameters, by TGI's rules."""

from typing import Any

import pytest

from textgen_server.errors import InvalidRequest
from textgen_server.text.request import GenerationRequest, Limits

LIMITS = Limits(
    max_best_of=2,
    max_stop_sequences=4,
    max_top_n_tokens=5,
    max_input_tokens=2000,
    max_total_tokens=2048,
    vocab_size=100,
)


def ask(**fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt="hello", **fields)


@pytest.mark.parametrize(
    ("fields", "greedy"),
    [
        ({}, True),
        ({"temperature": 1.0, "top_p": 1.0, "typical_p": 1.0}, True),
        ({"repetition_penalty": 1.3, "frequency_penalty": 0.5, "seed": 3}, True),
        ({"do_sample": True}, False),
        ({"temperature": 0.5}, False),
        ({"top_k": 10}, False),
        ({"top_p": 0.9}, False),
        ({"typical_p": 0.9}, False),
    ],
)
def test_tokens_are_drawn_when_a_parameter_asks_for_it(fields: dict[str, Any], greedy: bool) -> None:
    assert ask(**fields).sampling(100).greedy is greedy


def test_a_seed_is_used_as_given_and_random_otherwise() -> None:
    assert ask(do_sample=True, seed=0).sampling(100).seed == 0
    seeds = {ask(do_sample=True).sampling(100).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_top_k_is_at_most_the_vocabulary() -> None:
    assert ask(top_k=10**12).sampling(100).top_k == 100


@pytest.mark.parametrize("tiny", [1e-300, 5e-324])
def test_no_value_overflows_single_precision(tiny: float) -> None:
    sampling = ask(temperature=tiny, repetition_penalty=1 / 1e-300).sampling(100)
    assert sampling.temperature > 1e-38
    assert sampling.repetition_penalty < 1e38


@pytest.mark.parametrize("field", ["temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty"])
def test_not_a_number_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(**{field: float("nan")}).check(LIMITS)
    assert caught.value.field == field


def test_the_first_wrong_field_in_tgis_order_is_told() -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        ask(max_new_tokens=0, top_k=0, temperature=-1.0).check(LIMITS)


@pytest.mark.parametrize(
    ("asked", "prompt", "given"),
    [(None, 48, 2000), (10, 48, 10), (1024, 1024, 1024), (1500, 48, 1500), (1500, 1024, 1024), (10**9, 48, 2000)],
)
def test_new_tokens_fit_the_model(asked: int | None, prompt: int, given: int) -> None:
    assert ask(max_new_tokens=asked).new_tokens(prompt, LIMITS) == given


@pytest.mark.parametrize(("asked", "prompt"), [(None, 2001), (1, 2001), (1024, 1025), (5000, 1025), (None, 0)])
def test_prompts_that_do_not_fit_are_refused(asked: int | None, prompt: int) -> None:
    with pytest.raises(InvalidRequest):
        ask(max_new_tokens=asked).new_tokens(prompt, LIMITS)
