"""LongRoPE over its original length, against transformers: a long prompt is turned by the long factors from its first
token on. A Phi-3 that outgrows the length is computed anew; other families go on with the keys that they have."""

from pathlib import Path

import pytest
import torch
import transformers
from harness import generate, logits, make_request, make_runner, run
from shapes import Shape, make_model

ORIGINAL = 32
ROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.2, 1.4],
    "long_factor": [1.0, 3.0, 8.0, 16.0], "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
SHAPES = {
    "phi3": Shape(transformers.Phi3Config, {"original_max_position_embeddings": ORIGINAL, "rope_parameters": ROPE}),
    "llama": Shape(transformers.LlamaConfig, {"rope_parameters": ROPE}),
}
LENGTHS = (3, 20, 31, 32, 33, 60)  # short to the end, outgrowing, just so, long


def prompt(length: int) -> list[int]:
    return torch.randint(3, 131, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def twins(request, tmp_path_factory):
    """(transformers' model, our runner) with the same random weights."""
    folder: Path = tmp_path_factory.mktemp("model")
    theirs = make_model(request.param)
    theirs.save_pretrained(folder)
    theirs.generation_config.eos_token_id = None
    return theirs, make_runner(folder, block_size=8)


def their_text(model, tokens: list[int], count: int) -> list[int]:
    settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    return model.generate(torch.tensor([tokens]), **settings)[0, len(tokens) :].tolist()


def test_the_logits_of_a_long_prompt_are_the_same(twins):
    theirs, runner = twins
    for length in (ORIGINAL, ORIGINAL + 1, 60):
        with torch.inference_mode():
            expected = theirs(torch.tensor([prompt(length)])).logits[0]
        torch.testing.assert_close(logits(runner, prompt(length)), expected, rtol=1e-4, atol=1e-4)


def test_the_text_is_the_same_when_a_sequence_outgrows_the_length(twins):
    theirs, runner = twins
    prompts = [prompt(length) for length in LENGTHS]
    expected = [their_text(theirs, p, 16) for p in prompts]
    assert generate(runner, prompts, 16) == expected
    twice = [make_request(runner, key, p, 16) for key, p in enumerate(prompts * 2)]
    assert run(runner, twice, prefill=7, num_blocks=20).texts == expected * 2
    guessing = [make_request(runner, key, p, 16) for key, p in enumerate(prompts)]
    assert run(runner, guessing, prefill=16, speculate=3).texts == expected
