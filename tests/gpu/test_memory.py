"""On a real GPU: the KV cache takes the share that it may, in any of its types; encoder-decoders run on its pages."""

from pathlib import Path

import pytest
import torch
from harness import make_request, make_runner, run
from shapes import SHAPES, save_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: how its memory is shared is NOT tested here"),
]

PROMPTS = [[5] * 20, list(range(10, 60)), [9]]


def logprobs(folder: Path, **options: object) -> list[float]:
    """Of the first tokens of each prompt, in float32."""
    runner = make_runner(folder, dtype="float32", block_size=16, **options)
    requests = [make_request(runner, key, prompt, 8) for key, prompt in enumerate(PROMPTS)]
    return [outputs[0].logprob for outputs in run(runner, requests, num_blocks=64).outputs]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("cache_dtype", ["auto", "bfloat16", "fp8_e4m3fn", "fp8_e5m2"])
def test_every_type_of_cache_is_near_the_cpu_s_full_one(family: str, cache_dtype: str, tmp_path: Path) -> None:
    if cache_dtype.startswith("fp8") and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no 8-bit floats")
    folder = save_checkpoint(next(iter(SHAPES[family].values())), tmp_path)
    on_gpu = logprobs(folder, device="cuda", attention_backend="triton", kv_cache_dtype=cache_dtype,
                      cuda_memory_fraction=0.3)  # fmt: skip
    tolerance = 1e-3 if cache_dtype == "auto" else 0.1
    assert on_gpu == pytest.approx(logprobs(folder, device="cpu"), abs=tolerance)


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_the_cache_fills_the_share_of_memory_that_it_may_and_no_more(fraction: float, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    folder = save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path)
    runner = make_runner(folder, device="cuda", cuda_memory_fraction=fraction)
    free, total = torch.cuda.mem_get_info()
    assert 0.9 * fraction < (total - free) / total < 1.05 * fraction
    assert runner.num_blocks * runner.layout.block_bytes < fraction * total
