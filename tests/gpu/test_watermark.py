"""The green list on a GPU is the CPU's."""

import pytest
import torch

from textgen_server.engine.plan import Sample
from textgen_server.runner.sampler import sample
from textgen_server.sampling import SamplingParams
from textgen_server.watermark import Watermark

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE: the watermark on GPUs is NOT tested"),
]


@pytest.mark.parametrize("key", [0, 15485863, 2**64 - 1])
def test_cpu_and_gpu_agree_on_what_is_green(key):
    mark = Watermark(0.3, 2.0, key)
    previous = torch.arange(0, 256_000, 4001)[:, None]
    tokens = torch.arange(256_000)
    assert torch.equal(mark.is_green(previous.cuda(), tokens.cuda()).cpu(), mark.is_green(previous, tokens))


def test_marked_logits_give_the_same_tokens_on_both():
    logits = torch.randn(16, 5000, generator=torch.Generator().manual_seed(0))
    samples = [
        Sample(SamplingParams(greedy=seed % 2 == 0, watermark=True, seed=seed), seed, previous=seed * 311)
        for seed in range(16)
    ]
    assert sample(logits.cuda(), samples).read().tokens == sample(logits, samples).read().tokens
