"""bench/kernels.py runs in a tiny shape."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import kernels


def test_every_kernel_that_runs_here_gets_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    kernels.main(["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--rows", "1,3",
                  "--seconds", "0", "--spread", "1e-5", "--backends", "cpu,reference"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert all(len(row) == 8 and float(row[2]) > 0 for row in rows)
    sizes = {(row[0], row[1]) for row in rows}
    assert {("linear, chosen", "qkv 128 x 64, 1 rows"), ("linear, int8", "head 256 x 64, 3 rows")} <= sizes
    assert {("attention, cpu", "2 x 1 at 40"), ("attention, reference", "1 x 9 at 9")} <= sizes
