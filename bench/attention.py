"""Time of one attention layer per backend and workload, beside what this device's memory and arithmetic allow.

usage: python bench/attention.py [--heads 9 --kv-heads 3 --head-dim 64] [--dtype float32] [--cache-dtype bfloat16]
       [--backends cpu,triton]

A row is one step's shape: decodes of equal context, or one prompt chunk. `limit` is the slower of reading the keys and
values once and of the multiplications, at the bandwidth and speed that a plain sum and matrix product reach here.
"""

import argparse
from dataclasses import replace

import torch
from torch.utils.benchmark import Timer

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.attention.select import block_size_for, choose
from textgen_server.errors import StartupError
from textgen_server.registry import ATTENTION_BACKENDS

# (sequences, query tokens of each, context of each)
WORKLOADS = [
    *((count, 1, context) for context in (200, 2048) for count in (1, 8, 32)),
    (1, 170, 170),
    (1, 1024, 1024),
    (1, 256, 2048),
]
LAYERS = 8  # with pools of their own, so that no layer finds its keys in the cache


def seconds(statement: str, **names: object) -> float:
    timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.5).median


def device_limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes read per second by a sum, and floating point operations per second of a matrix product."""
    data = torch.ones(1 << 26, device=device)
    square = torch.ones(2048, 2048, device=device, dtype=dtype)
    return 4 * len(data) / seconds("data.sum()", data=data), 2 * 2048**3 / seconds("a @ a", a=square)


def step(count: int, queries: int, context: int, block_size: int, device: torch.device) -> AttentionBatch:
    """`count` sequences over a pool of shuffled blocks."""
    width = -(-context // block_size)
    tables = torch.randperm(count * width, device=device).view(count, width).int()
    positions = torch.arange(context - queries, context, device=device)
    slots = tables.long()[:, positions // block_size] * block_size + positions % block_size
    return AttentionBatch(
        num_decodes=count if queries == 1 else 0,
        query_start=torch.arange(count + 1, device=device, dtype=torch.int32) * queries,
        context_lens=torch.full((count,), context, device=device, dtype=torch.int32),
        block_tables=tables,
        slots=slots.flatten(),
        query_lens=[queries] * count,
        host_context_lens=[context] * count,
        block_size=block_size,
    )


def layer_seconds(
    backend: type[Attention],
    spec: AttentionSpec,
    batch: AttentionBatch,
    device: torch.device,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
) -> float:
    """Seconds per layer, with the work that a step does once spread over LAYERS layers."""
    blocks, size = batch.block_tables.numel(), batch.block_size
    shape = backend.pool_shape(blocks, size, spec.num_kv_heads, spec.head_dim, cache_dtype)
    # Of 8 bits, random scales would make infinities; zeros take as long to read.
    fill = torch.zeros if cache_dtype.itemsize == 1 else torch.randn
    pools = [[fill(shape, device=device).to(cache_dtype) for _ in range(2)] for _ in range(LAYERS)]
    tokens = len(batch.slots)
    q = torch.randn(tokens, spec.num_heads, spec.head_dim, device=device).to(dtype)
    k, v = (torch.randn(tokens, spec.num_kv_heads, spec.head_dim, device=device).to(dtype) for _ in range(2))
    layer = backend(spec)

    def run_step() -> None:
        fresh = replace(batch)
        for k_cache, v_cache in pools:
            layer.forward(q, k, v, k_cache, v_cache, fresh)

    with torch.inference_mode():
        return seconds("run_step()", run_step=run_step) / LAYERS


def least_seconds(spec: AttentionSpec, batch: AttentionBatch, itemsize: int, limits: tuple[float, float]) -> float:
    bandwidth, flops = limits
    lengths = list(zip(batch.query_lens, batch.host_context_lens, strict=True))
    read = sum(context for _, context in lengths) * 2 * spec.num_kv_heads * spec.head_dim * itemsize
    pairs = sum(queries * (context - (queries - 1) / 2) for queries, context in lengths)
    return max(read / bandwidth, 4 * pairs * spec.num_heads * spec.head_dim / flops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--block-size", type=int, help="default: what each backend prefers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--cache-dtype", help="of torch, as float8_e4m3fn; default: as --dtype")
    parser.add_argument("--backends", default=",".join(ATTENTION_BACKENDS), help="default: all that run here")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    cache_dtype = getattr(torch, args.cache_dtype) if args.cache_dtype else dtype
    spec = AttentionSpec(args.heads, args.kv_heads, args.head_dim, scale=args.head_dim**-0.5)
    limits = device_limits(device, dtype)
    print(f"{device}, {dtype}, cache in {cache_dtype}: {limits[0] / 1e9:.0f} GB/s, {limits[1] / 1e9:.0f} GFLOP/s")
    for name in args.backends.split(","):
        try:
            backend = choose(name, device.type, dtype, args.head_dim, cache_dtype=cache_dtype)
            block_size = block_size_for(backend, args.block_size)
        except StartupError as error:
            print(f"- {error}")
            continue
        print(f"\n{name}, blocks of {block_size}")
        print(f"{'sequences x queries @ context':>30}{'us/layer':>12}{'limit':>10}")
        for workload in WORKLOADS:
            batch = step(*workload, block_size, device)
            took = layer_seconds(backend, spec, batch, device, dtype, cache_dtype)
            least = least_seconds(spec, batch, cache_dtype.itemsize, limits)
            label = "{} x {} @ {}".format(*workload)
            print(f"{label:>30}{took * 1e6:12.0f}{least * 1e6:10.1f}{least / took:6.0%}", flush=True)


if __name__ == "__main__":
    main()
