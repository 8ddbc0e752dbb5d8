"""Compile for GPUs that need not be here what layers would launch between matrix products. See compiled_kernels.py."""

import sys

import torch
from compiled_kernels import compile_for

from textgen_server.layers import fused, lora_triton
from textgen_server.layers.skinny import SkinnyLinear

ROWS, HIDDEN = 3, 4096


def main() -> None:
    for capability in map(int, sys.argv[1:]):
        compile_for(capability)
        x, weight = torch.zeros(ROWS, HIDDEN, dtype=torch.bfloat16), torch.ones(HIDDEN, dtype=torch.bfloat16)
        fused.rms_norm(x, weight, 1e-5, rounds_first=True)
        fused.add_and_rms_norm(x, x, weight.float(), 1e-5, rounds_first=False)
        fused.silu_and_multiply(torch.zeros(ROWS, 2 * HIDDEN, dtype=torch.bfloat16))
        lora_triton.add(
            x.clone(), x, torch.zeros(1, 3, dtype=torch.int64), 16, *torch.zeros(2, ROWS, dtype=torch.int64)
        )
        SkinnyLinear(torch.zeros(1024, HIDDEN, dtype=torch.bfloat16), None).multiplied(x)


if __name__ == "__main__":
    main()
