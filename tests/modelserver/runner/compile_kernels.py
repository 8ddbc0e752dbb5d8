"""Compile for GPUs that need not be here what captured steps would launch to choose. See compiled_kernels.py."""

import sys

import torch
from compiled_kernels import compile_for

from textgen_server.layers import fused
from textgen_server.runner.choice import Choice, Wishes, choose

ROWS, VOCABULARY = 3, 32000
CASES = {
    86: [(Choice.FILTERED, torch.float16)],
    90: [(Choice.LIKELIEST, torch.bfloat16), (Choice.FILTERED, torch.bfloat16)],
}


def main() -> None:
    fused.fit = lambda *tensors: True
    floats, flags = torch.ones(ROWS), torch.ones(ROWS, dtype=torch.uint8)
    longs = torch.ones(ROWS, dtype=torch.int64)
    wishes = Wishes(floats, flags, flags, longs, torch.ones(ROWS, dtype=torch.int32), floats)
    for capability in map(int, sys.argv[1:]):
        compile_for(capability)
        for choice, dtype in CASES[capability]:
            choose(torch.zeros(ROWS, VOCABULARY, dtype=dtype), choice, wishes, longs, floats)


if __name__ == "__main__":
    main()
