"""bench/gpu.py runs without a GPU in its tiny shape, and says which parts took too long."""

import argparse
import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import gpu


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(tiny=True, folder=tmp_path, bandwidth=1e10, flops=1e11, spawned=0.0)


def test_its_parts_measure_what_they_say(args: argparse.Namespace) -> None:
    bench = dataclasses.replace(gpu.make_bench(args), steps=4, context=8, prompt=16)
    names = ("checkpoints", "full", "gptq")
    results = [{"part": name, **result} for name in names for result in gpu.PARTS[name][0](bench)]
    assert all(result["value"] > 0 for result in results)
    measured = {(result["part"], result["what"]) for result in results}
    assert {(part, f"decode, batch {batch}") for part in ("full", "gptq") for batch in (1, 4)} <= measured
    assert ("full", "prefill of 16") in measured
    results.append({"part": "peer", "what": "transformers, continuous batching", "value": 1e-3, "unit": "tokens/s"})
    table = gpu.table(gpu.judged(results, "an H100", tiny=False))
    assert "| full | decode, batch 1 |" in table
    assert "at most 5.3" in table
    assert "at least 2.3: met" in table


def test_a_part_that_outlasts_its_limit_says_so(args: argparse.Namespace) -> None:
    (result,) = gpu.measure("full", args, [], seconds=0.01)
    assert (result["part"], result["error"]) == ("full", "it took more than 0 s")


def test_idle_time_between_steps_is_told_from_that_between_kernels() -> None:
    step = ["Memcpy HtoD", "table", "kernel", "kernel", "kernel", "kernel", "sampler", "Memcpy DtoH"]
    spans = [(10.0 * index, 10.0 * index + 8, name) for index, name in enumerate(step * 3)]
    borders = gpu.gpu_parts._borders(spans)
    assert [[name for _, _, name in spans[first:last]] for first, last in borders] == [
        ["sampler", "Memcpy DtoH", "Memcpy HtoD", "table", "kernel", "kernel"]
    ] * 2
    assert [gpu.gpu_parts._waited(spans[first:last]) for first, last in borders] == [10.0, 10.0]
