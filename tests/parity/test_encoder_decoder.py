"""Encoder-decoders against transformers, in float32 on the CPU: same logits, same greedy text."""

import pytest
import torch
from harness import generate, make_request, make_runner, run
from shapes import SHAPES, make_model

from textgen_server.registry import FAMILIES

CASES = [
    pytest.param(shape, id=f"{family}: {name}")
    for family in SHAPES
    if FAMILIES[family].encoder_decoder
    for name, shape in SHAPES[family].items()
]
NEW_TOKENS = 20


@pytest.fixture(scope="module", params=CASES)
def twins(request, tmp_path_factory):
    """(transformers' model, our runner) with the same random weights."""
    theirs = make_model(request.param)
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return theirs, make_runner(folder, block_size=8)


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 131, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def their_text(model, tokens: list[int]) -> list[int]:
    # Without their cache, which is too small where the decoder has more layers than the encoder.
    settings = {"use_cache": False, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return model.generate(torch.tensor([tokens]), **settings)[0, 1:].tolist()


def test_the_greedy_text_is_the_same_alone_batched_and_preempted(twins):
    theirs, runner = twins
    prompts = [prompt(n, n) for n in (1, 5, 30, 61, 17)]
    expected = [their_text(theirs, p) for p in prompts]
    assert [generate(runner, [p], NEW_TOKENS)[0] for p in prompts] == expected
    assert generate(runner, prompts, NEW_TOKENS) == expected
    assert generate(runner, prompts, NEW_TOKENS, prefill=64) == expected
    requests = [make_request(runner, key, p, NEW_TOKENS) for key, p in enumerate(prompts)]
    squeezed = run(runner, requests, num_blocks=14, prefill=64)
    assert squeezed.texts == expected
    assert squeezed.preemptions > 0


def test_encoder_and_decoder_share_one_pool_in_each_layer(twins):
    theirs, runner = twins
    assert len(runner.caches) == len(theirs.decoder.block)


def test_the_log_probabilities_are_the_same(twins):
    theirs, runner = twins
    source = prompt(23, 4)
    (outputs,) = run(runner, [make_request(runner, 0, source, NEW_TOKENS)]).outputs
    start = runner.loaded.config.decoder_start_token
    with torch.inference_mode():
        decoded = torch.tensor([[start, *(o.token for o in outputs)]])
        logprobs = theirs(torch.tensor([source]), decoder_input_ids=decoded).logits[0].log_softmax(-1)
    expected = [logprobs[place, output.token].item() for place, output in enumerate(outputs)]
    assert [output.logprob for output in outputs] == pytest.approx(expected, abs=1e-4)
