"""Every family in the registry against transformers' own model, in float32 on the CPU: same logits, same greedy text.

A family is proven on tiny random checkpoints that transformers makes, so no weights need to be downloaded. A family
without shapes in tests/shapes.py fails `test_every_family_has_shapes`.
"""

from pathlib import Path

import pytest
import torch
from harness import generate, logits, make_runner, run
from shapes import SHAPES, Shape, make_model

from textgen_server.engine.request import Request
from textgen_server.registry import FAMILIES
from textgen_server.sampling import SamplingParams

CASES = [
    pytest.param(shape, id=f"{family}: {name}")
    for family in SHAPES
    if not FAMILIES[family].encoder_decoder  # test_encoder_decoder.py
    for name, shape in SHAPES[family].items()
]


def test_every_family_has_shapes():
    assert set(SHAPES) == set(FAMILIES)


@pytest.fixture(scope="module", params=CASES)
def twins(request, tmp_path_factory):
    """(transformers' model, our runner) with the same random weights."""
    return make_twins(request.param, tmp_path_factory.mktemp("model"))


def make_twins(shape: Shape, folder: Path):
    theirs = make_model(shape)
    theirs.save_pretrained(folder)
    theirs.generation_config.eos_token_id = None  # or generate() would keep from choosing it
    return theirs, make_runner(folder, block_size=8)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 131, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def their_text(model, tokens: list[int], count: int) -> list[int]:
    out = model.generate(
        torch.tensor([tokens]), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return out[0, len(tokens) :].tolist()


def test_the_logits_are_the_same(twins):
    theirs, runner = twins
    tokens = prompt(41, 1)
    with torch.inference_mode():
        expected = theirs(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits(runner, tokens), expected, rtol=1e-4, atol=1e-4)


def test_the_greedy_text_is_the_same_batched_chunked_and_preempted(twins):
    theirs, runner = twins
    prompts = [prompt(n, n) for n in (1, 5, 30, 61, 17)]
    expected = [their_text(theirs, p, 20) for p in prompts]
    generate(runner, prompts[:1], 1)
    assert [generate(runner, [p], 20)[0] for p in prompts] == expected
    assert generate(runner, prompts, 20) == expected
    assert generate(runner, prompts, 20, prefill=7) == expected
    requests = [Request(key, list(p), 20) for key, p in enumerate(prompts)]
    squeezed = run(runner, requests, num_blocks=12, prefill=16)
    assert squeezed.texts == expected
    assert squeezed.preemptions > 0


def test_the_log_probabilities_of_prompts_are_the_same_chunked_cached_and_preempted(twins):
    theirs, runner = twins
    prompts = [prompt(n, n) for n in (2, 30, 61, 17, 1)]
    expected = [their_scores(theirs, p) for p in prompts]
    for how in ({}, {"prefill": 7}, {"num_blocks": 12, "prefill": 16}):
        requests = [
            Request(key, list(p), 9, SamplingParams(top_tokens=2), wants_prompt_logprobs=True)
            for key, p in enumerate([*prompts, prompts[1]])
        ]
        result = run(runner, requests, **how)
        for request, scores in zip(requests, [*expected, expected[1]], strict=True):
            torch.testing.assert_close(request.prompt_scores.logprobs, scores, rtol=1e-4, atol=1e-4)
            assert [len(top) for top in request.prompt_scores.tops] == [2] * len(scores)
    assert result.preemptions > 0


def their_scores(model, tokens: list[int]) -> list[float]:
    with torch.inference_mode():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return [logprobs[place, token].item() for place, token in enumerate(tokens[1:])]
