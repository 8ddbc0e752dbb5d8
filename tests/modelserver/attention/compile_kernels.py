"""Compile for GPUs that need not be here what TritonAttention would launch. See compiled_kernels.py."""

import sys
from dataclasses import replace
from itertools import product

import torch
from attention_cases import Case, PagedRun, biases, slopes, spec
from compiled_kernels import compile_for

from textgen_server.attention.triton import TritonAttention

QUERIES, CACHED = (1, 1, 20, 300), (4000, 10, 0, 100)
LLAMA = Case("Llama 8B", spec(8, 2, 128), QUERIES, CACHED)
OPTIONS = Case("groups of three, every option", spec(
    9, 3, 80, window=1000, softcap=30.0, alibi_slopes=slopes(9)), QUERIES, CACHED)  # fmt: skip
BIASED = Case("T5", spec(4, 4, 64, relative_bias=biases(4, 129)), (1, 1, 3), (4000, 10, 100), first_keys=(3000, 2, 100))
WIDE = Case("head_dim 256", spec(2, 1, 256), QUERIES, CACHED, block_size=256)
BFLOAT16, FLOAT8 = torch.bfloat16, torch.float8_e4m3fn
# For which GPUs, in which types of numbers and cache. Compiling takes long: each says something that the others do not.
CASES = [
    ((86, 90), LLAMA, BFLOAT16, BFLOAT16),
    ((90,), LLAMA, BFLOAT16, FLOAT8),
    ((90,), LLAMA, torch.float16, torch.float8_e5m2),
    ((86,), OPTIONS, torch.float16, torch.float16),
    ((86,), BIASED, BFLOAT16, BFLOAT16),
    ((90,), WIDE, BFLOAT16, BFLOAT16),
    ((86,), replace(LLAMA, spec=spec(4, 2, 64)), torch.float32, torch.float32),
]


def main() -> None:
    for capability, (capabilities, case, dtype, cache_dtype) in product(map(int, sys.argv[1:]), CASES):
        if capability not in capabilities:
            continue
        compile_for(capability)
        run = PagedRun(case, torch.device("cpu"), dtype)
        layer, pools = TritonAttention(run.spec_on_device()), run.pools(TritonAttention, cache_dtype)
        keys_and_values = run.keys_and_values(run.step)
        layer.forward(run.q, *keys_and_values, *pools, run.step)
        angles = torch.ones(len(run.q), 1, case.spec.head_dim // 2, dtype=dtype)
        layer.forward_turning(run.q, *keys_and_values, (angles, angles), *pools, run.step)


if __name__ == "__main__":
    main()
