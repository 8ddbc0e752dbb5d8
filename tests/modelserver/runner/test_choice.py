"""The kernel that chooses in captured steps, in Triton's interpreter where there is no GPU, against the sampler."""

from pathlib import Path

import numpy as np
import pytest
import torch
from compiled_kernels import compiled
from triton_interpreter import interpreter_rounds_as_gpus_do, interpreter_takes_scalars_of_one_element

from textgen_server.engine.plan import Sample
from textgen_server.layers import fused
from textgen_server.runner import choice
from textgen_server.runner.choice import Choice, Wishes, choose, seeds_of
from textgen_server.runner.sampler import sample
from textgen_server.sampling import SamplingParams

__all__ = ["interpreter_rounds_as_gpus_do", "interpreter_takes_scalars_of_one_element"]

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCABULARY = 600
PARAMS = {
    Choice.LIKELIEST: [SamplingParams()] * 3,
    Choice.DRAWN: [
        SamplingParams(greedy=row % 4 == 0, temperature=0.5 + row / 8, seed=row << 60, raw_logprobs=row % 3 == 0)
        for row in range(9)
    ],
    Choice.FILTERED: [
        SamplingParams(greedy=not row, temperature=0.7, top_k=k, top_p=p, seed=row, raw_logprobs=row == 2)
        for row, (k, p) in enumerate([(0, 0.9), (5, 1), (40, 0.8), (1, 0.5), (2000, 0.999), (0, 1), (7, 1e-6)])
    ],
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Choice.LIKELIEST, torch.bfloat16), (Choice.DRAWN, torch.float32), (Choice.FILTERED, torch.bfloat16)],
)
def test_it_chooses_what_the_sampler_chooses(kind: Choice, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    params = PARAMS[kind]
    samples = [Sample(p, position) for position, p in enumerate(params)]
    logits = torch.randn(len(params), VOCABULARY, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype) * 3
    logits[:, 500:510] = logits.amax(-1, keepdim=True) - 1  # ties
    expected = sample(logits, samples).read()
    monkeypatch.setattr(fused, "fit", lambda *tensors: True)
    monkeypatch.setattr(choice, "PLACES", 256)
    columns = ([p.temperature for p in params], [not p.greedy for p in params], [p.raw_logprobs for p in params],
               seeds_of(samples), [p.top_k for p in params], [p.top_p for p in params])  # fmt: skip
    types = (np.float32, np.uint8, np.uint8, np.int64, np.int32, np.float32)
    wishes = Wishes(*(torch.from_numpy(np.array(c, t)).to(DEVICE) for c, t in zip(columns, types, strict=True)))
    tokens = torch.full((len(params),), -1, device=DEVICE)
    logprobs = torch.empty(len(params), device=DEVICE)
    choose(logits, kind, wishes, tokens, logprobs)
    assert tokens.tolist() == expected.tokens
    assert logprobs.tolist() == pytest.approx(expected.logprobs, abs=1e-4)


def test_it_compiles_for_gpus(tmp_path: Path) -> None:
    assert compiled(Path(__file__).with_name("compile_kernels.py"), tmp_path) == {"choose"}
