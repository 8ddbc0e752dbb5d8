"""The embedded default against transformers: SmolLM2's greedy text in float32, token for token."""

import pytest
import torch
import transformers
from harness import generate, make_runner, run
from tokenizers import Tokenizer

from textgen_server.engine.request import Request
from textgen_server.sampling import SamplingParams

PROMPTS = [
    "What is Deep Learning?",
    "def fibonacci(n):\n",
    "The capital of France is",
    "Once upon a time, in a small village at the foot of a mountain, there lived a boy who",
    "List the planets of the solar system in order of their distance from the sun, and say one thing about each. " * 2,
]
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def prompts(smollm2_folder) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in PROMPTS]


@pytest.fixture(scope="module")
def expected(smollm2_folder, prompts) -> list[list[int]]:
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2_folder, dtype=torch.float32).eval()
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    with torch.inference_mode():
        return [model.generate(torch.tensor([p]), **settings)[0, len(p) :].tolist() for p in prompts]


@pytest.fixture(scope="module")
def runner(smollm2_folder):
    return make_runner(smollm2_folder, cpu_kv_cache_gib=0.2, block_size=8)


def test_each_prompt_alone(runner, prompts, expected):
    assert [generate(runner, [p], NEW_TOKENS)[0] for p in prompts] == expected


def test_layers_in_one_call_give_what_they_give_one_by_one(runner, prompts, monkeypatch):
    model = runner.loaded.model
    assert model._native is not None
    together = generate(runner, prompts, NEW_TOKENS)
    monkeypatch.setattr(model, "_native", None)
    assert generate(runner, prompts, NEW_TOKENS) == together


@pytest.mark.parametrize(
    "how",
    [{}, {"prefill": 16}, {"num_blocks": 13, "prefill": 32}, {"caching": False, "batch": 2}, {"speculate": 4}],
    ids=str,
)
def test_together_chunked_preempted_or_uncached(runner, prompts, expected, how):
    result = run(runner, [Request(key, list(prompt), NEW_TOKENS) for key, prompt in enumerate(prompts)], **how)
    assert result.texts == expected
    assert ("num_blocks" not in how) or result.preemptions > 0


def test_guessing_changes_no_text_and_saves_steps(runner, prompts):
    repeated = prompts[4] + prompts[4]
    params = [
        SamplingParams(),
        SamplingParams(greedy=False, seed=1, temperature=0.7),
        SamplingParams(frequency_penalty=0.5),
    ]
    texts = {
        speculate: [
            run(runner, [Request(0, list(repeated), 24, sampling)], speculate=speculate).texts[0] for sampling in params
        ]
        for speculate in (0, 4)
    }
    assert texts[4] == texts[0]
