"""What is particular to the CPU backend; test_agreement.py has the promises common to all."""

from typing import Any

import pytest
import torch
from attention_cases import Case, PagedRun, random_case, spec

from textgen_server.attention import cpu


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_on_random_steps(seed: int) -> None:
    run = PagedRun(random_case(seed, longest=300), torch.device("cpu"), torch.float32)
    torch.testing.assert_close(run.attended_by(cpu.CpuAttention), run.expected(), rtol=2e-5, atol=2e-5)


def test_pads_no_short_decode_to_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long sequence must not make all others gather as many keys as it."""
    gathered: list[int] = []
    gather = cpu._gather

    def recorded(cache: torch.Tensor, cells: torch.Tensor, *others: Any) -> torch.Tensor:
        gathered.append(len(cells) * cache.shape[2])
        return gather(cache, cells, *others)

    monkeypatch.setattr(cpu, "_gather", recorded)
    case = Case("one long", spec(2, 1, 32), (1,) * 9, (40,) * 8 + (3000,), block_size=32)
    run = PagedRun(case, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(run.attended_by(cpu.CpuAttention), run.expected(), rtol=2e-5, atol=2e-5)
    assert sum(gathered) / 2 < sum(case.contexts) + 600
