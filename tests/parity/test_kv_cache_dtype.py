"""A KV cache in fewer bits: near the full one, in chunks, with shared prefixes, and for encoder-decoders."""

from pathlib import Path

import pytest
from harness import make_request, make_runner, run
from shapes import SHAPES, save_checkpoint

from textgen_server.errors import StartupError

# Of log-probabilities, in float32 models with keys and values rounded to the 8 bits of bfloat16's mantissa.
TOLERANCE = 0.02
PREFIX = list(range(10, 58))
PROMPTS = [[*PREFIX, 7, 9], [*PREFIX, 30], [5] * 20]


@pytest.mark.parametrize("family", ["llama", "gemma2", "t5"])
def test_bfloat16_changes_log_probabilities_little(family: str, tmp_path: Path) -> None:
    folder = save_checkpoint(next(iter(SHAPES[family].values())), tmp_path)
    full, half = (
        make_runner(folder, block_size=16, attention_backend="cpu", kv_cache_dtype=dtype)
        for dtype in ("auto", "bfloat16")
    )
    assert half.num_blocks // 2 == full.num_blocks

    first, second = (
        run(runner, [make_request(runner, key, p, 12) for key, p in enumerate(PROMPTS)], prefill=64, batch=1)
        for runner in (full, half)
    )
    assert second.requests[1].cached_tokens == (0 if family == "t5" else len(PREFIX))
    for ours, theirs in zip(first.outputs, second.outputs, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
            if one.token != other.token:
                break  # nearly a tie, after which the texts differ
    assert [o.logprob for o in first.outputs[0]] != [o.logprob for o in second.outputs[0]], "nothing was rounded"


def test_fp8_on_the_cpu_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path)
    with pytest.raises(
        StartupError, match=r"^No attention backend runs on cpu in float32 with --kv-cache-dtype fp8_e4m3fn: "
    ):
        make_runner(folder, kv_cache_dtype="fp8_e4m3fn")
    with pytest.raises(StartupError, match=r"^--attention-backend cpu keeps no KV cache in fp8_e5m2; .* no other can"):
        make_runner(folder, kv_cache_dtype="fp8_e5m2", attention_backend="cpu")
