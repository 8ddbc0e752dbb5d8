"""Triton kernels compiled for GPUs that need not be here, in place of being launched.

For programs of their own, because Triton decides at import between compiler and interpreter: compile_kernels.py beside
the tests of the kernels, run by those tests through `compiled`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

# Bytes of shared memory that a program may have on A10, which has the least, and H100. A100 runs the code of A10.
SHARED = {86: 99 << 10, 90: 227 << 10}


def compiled(program: Path, cache: Path) -> set[str]:
    """Names of the kernels that `program` launches, having been compiled through ptxas to machine code for each of the
    GPUs, within their shared memory."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(tests), "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(program), *map(str, SHARED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel["capability"] for kernel in kernels} == set(SHARED)
    assert all(kernel["shared"] <= SHARED[kernel["capability"]] for kernel in kernels)
    return {kernel["kernel"] for kernel in kernels}


def compile_for(capability: int) -> None:
    """From now on launches only compile, for that GPU, and print one JSON line per kernel: its name, capability and
    bytes of shared memory."""
    JITFunction.__getitem__ = compile_instead_of_launch
    driver.set_active(Target(capability))


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
