"""What clients ask for becomes the engine's parameters, by TGI's rules."""

import re
from dataclasses import replace
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


# TGI's rules in the order in which it checks them: a value that breaks each, and TGI's words.
RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"stream": True, "best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
    (
        {"stream": True, "prompt_logprobs": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ("a", "b", "c", "d", "e")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"top_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"prompt": ""}, "`inputs` cannot be empty"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 2000. Given: 0"),
    ({"truncate": 2001}, "`truncate` must be strictly positive and less than 2000. Given: 2001"),
]


@pytest.mark.parametrize(("fields", "words"), RULES, ids=[words for _, words in RULES])
def test_every_rule_of_tgi_is_told_in_its_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest(**{"prompt": "hello"} | fields).check(LIMITS)
    assert caught.value.message.startswith(f"Input validation error: {words}")
    assert caught.value.field


# Neighbours, but for those of which breaking one repairs the other.
PAIRS = [(place, place + 1) for place in range(len(RULES) - 1) if place not in (2, 3)] + [(2, 4), (3, 5)]


@pytest.mark.parametrize("pair", PAIRS)
def test_of_two_broken_rules_the_one_that_tgi_checks_first_is_told(pair: tuple[int, int]) -> None:
    (first, words), (second, _) = (RULES[place] for place in pair)
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest(**{"prompt": "hello"} | second | first).check(LIMITS)
    assert words in caught.value.message


def test_a_server_may_refuse_best_of() -> None:
    with pytest.raises(InvalidRequest, match="`best_of` != 1 is not allowed"):
        ask(best_of=2, do_sample=True).check(replace(LIMITS, max_best_of=1))


@pytest.mark.parametrize("fields", [{"best_of": 0}, {"best_of": 1}, {"best_of": 2, "temperature": 1.0}, {"top_p": 1.0}])
def test_what_tgi_accepts_is_accepted(fields: dict[str, Any]) -> None:
    ask(**fields).check(LIMITS)


@pytest.mark.parametrize(
    ("asked", "prompt", "given"),
    [(None, 48, 2000), (10, 48, 10), (1024, 1024, 1024), (1500, 48, 1500), (1500, 1024, 1024), (10**9, 48, 2000)],
)
def test_new_tokens_fit_the_model(asked: int | None, prompt: int, given: int) -> None:
    assert ask(max_new_tokens=asked).new_tokens(prompt, LIMITS) == given


@pytest.mark.parametrize(
    ("asked", "prompt", "words"),
    [
        (None, 2001, "`inputs` must have less than 2000 tokens. Given: 2001"),
        (1, 2001, "`inputs` must have less than 2000 tokens. Given: 2001"),
        (1024, 1025, "must be <= 2048. Given: 1025 `inputs` tokens and 1024 `max_new_tokens`"),
        (5000, 1025, "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1025"),
        (None, 2049, "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2049 `inputs` tokens and 0"),
        (100, 2001, "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2001"),
        (None, 0, "`inputs` cannot be empty"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(asked: int | None, prompt: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        ask(max_new_tokens=asked).new_tokens(prompt, LIMITS)
