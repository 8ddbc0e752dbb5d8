"""Compile for GPUs that need not be here what TritonAttention would launch.

A program of its own, because Triton decides at import between compiler and interpreter. Run by test_triton.py as
`compile_kernels.py CAPABILITY...`; prints one JSON line per kernel: its name, capability and bytes of shared memory.
"""

import json
import sys
from itertools import product
from typing import Any

import torch
from attention_cases import Case, PagedRun, slopes, spec
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from textgen_server.attention.triton import TritonAttention

QUERIES, CACHED = (1, 1, 20, 300), (4000, 10, 0, 100)
CASES = [
    (torch.bfloat16, Case("Llama 8B", spec(8, 2, 128), QUERIES, CACHED)),
    (torch.float16, Case("groups of three, every option", spec(
        9, 3, 80, window=1000, softcap=30.0, alibi_slopes=slopes(9)), QUERIES, CACHED)),
    (torch.bfloat16, Case("head_dim 256", spec(2, 1, 256), QUERIES, CACHED, block_size=256)),
    (torch.float32, Case("float32", spec(4, 2, 64), QUERIES, CACHED)),
]  # fmt: skip


class Target:
    """A driver that only knows what to compile for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are kept per device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead_of_launch(kernel: Any, grid: tuple[int, ...]) -> Any:
    def launch(*args: Any, **options: Any) -> None:
        compiled = kernel.warmup(*args, grid=grid, **options)
        shared, capability = compiled.metadata.shared, compiled.metadata.target.arch
        print(json.dumps({"kernel": compiled.name, "capability": capability, "shared": shared}))

    return launch


def main() -> None:
    JITFunction.__getitem__ = compile_instead_of_launch
    for capability, (dtype, case) in product(map(int, sys.argv[1:]), CASES):
        driver.set_active(Target(capability))
        run = PagedRun(case, torch.device("cpu"), dtype)
        layer = TritonAttention(run.spec_on_device())
        layer.forward(run.q, *run.keys_and_values(run.step), *run.pools(TritonAttention), run.step)


if __name__ == "__main__":
    main()
