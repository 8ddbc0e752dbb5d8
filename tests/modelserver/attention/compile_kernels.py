"""Compile for GPUs that need not be here what TritonAttention would launch. See compiled_kernels.py."""

import sys
from itertools import product

import torch
from attention_cases import Case, PagedRun, biases, slopes, spec
from compiled_kernels import compile_for

from textgen_server.attention.triton import TritonAttention

QUERIES, CACHED = (1, 1, 20, 300), (4000, 10, 0, 100)
CASES = [
    (torch.bfloat16, Case("Llama 8B", spec(8, 2, 128), QUERIES, CACHED)),
    (torch.float16, Case("groups of three, every option", spec(
        9, 3, 80, window=1000, softcap=30.0, alibi_slopes=slopes(9)), QUERIES, CACHED)),
    (torch.bfloat16, Case("T5", spec(4, 4, 64, relative_bias=biases(4, 129)), (1, 1, 3), (4000, 10, 100),
                          first_keys=(3000, 2, 100))),
    (torch.bfloat16, Case("head_dim 256", spec(2, 1, 256), QUERIES, CACHED, block_size=256)),
    (torch.float32, Case("float32", spec(4, 2, 64), QUERIES, CACHED)),
]  # fmt: skip


def main() -> None:
    for capability, (dtype, case) in product(map(int, sys.argv[1:]), CASES):
        compile_for(capability)
        run = PagedRun(case, torch.device("cpu"), dtype)
        layer = TritonAttention(run.spec_on_device())
        for cache_dtype in (dtype, torch.float8_e4m3fn, torch.float8_e5m2):
            if cache_dtype.itemsize > 1 or capability >= 89:
                pools = run.pools(TritonAttention, cache_dtype)
                layer.forward(run.q, *run.keys_and_values(run.step), *pools, run.step)


if __name__ == "__main__":
    main()
