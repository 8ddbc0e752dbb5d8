"""What gpu.py measures of single layers: beside torch's own, as CUDA graphs, so that launches do not count."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from gpu_model import Shape
from gpu_parts import Bench, Result


def kernels(bench: Bench, method: str | None) -> Iterator[Result]:
    """Linear layers as the model has them, all layers in turn, beside torch's product in full precision."""
    runner = bench.runner(method)
    model: Any = runner.loaded.model
    parts: dict[str, Callable[[Any], Any]] = {
        "qkv": lambda layer: layer.attention.qkv, "out": lambda layer: layer.attention.out,
        "gate-up": lambda layer: layer.mlp.gate_up, "down": lambda layer: layer.mlp.down,
    }  # fmt: skip
    sizes = {name: _features(bench.shape, name) for name in parts}
    with torch.inference_mode():
        for rows in (1, 8, 32, 256):
            for name, part in parts.items():
                out, size = sizes[name]
                x = torch.randn(rows, size, device=bench.device, dtype=bench.dtype)
                layers = [part(layer) for layer in model.layers]
                plain = torch.randn(4, out, size, device=bench.device, dtype=bench.dtype) * size**-0.5
                ours = replayed(lambda layers=layers, x=x: [layer(x) for layer in layers]) / len(layers)
                theirs = replayed(lambda plain=plain, x=x: [F.linear(x, w) for w in plain]) / len(plain)
                least = out * size * bench.shape.linear_bits(method, bench.dtype.itemsize) / 8 / bench.bandwidth
                yield {
                    "what": f"{name}, {rows} rows; F.linear {theirs * 1e6:.1f} us", "value": ours * 1e6, "unit": "us",
                    "limit": least * 1e6,
                }  # fmt: skip


def _features(shape: Shape, name: str) -> tuple[int, int]:
    """[out, in] of a layer's matrices as they stand together."""
    kv = shape.head_dim * shape.kv_heads
    return {
        "qkv": (shape.hidden + 2 * kv, shape.hidden), "out": (shape.hidden, shape.hidden),
        "gate-up": (2 * shape.intermediate, shape.hidden), "down": (shape.hidden, shape.intermediate),
    }[name]  # fmt: skip


def attention(bench: Bench) -> Iterator[Result]:
    """Decode attention over pages beside torch's over keys that lie end to end, and a prompt's."""
    from kernels import step

    from textgen_server.attention.base import AttentionSpec
    from textgen_server.attention.select import block_size_for, choose

    shape = bench.shape
    backend = choose(None, bench.device.type, bench.dtype, shape.head_dim)
    block = block_size_for(backend, None)
    layer = backend(AttentionSpec(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim**-0.5))
    cases = [(batch, 1, bench.context) for batch in bench.batches] + [(1, bench.prompt, bench.prompt)]
    with torch.inference_mode():
        for count, queries, context in cases:
            batch = step(count, queries, context, block, bench.device)
            sizes = backend.pool_shape(batch.block_tables.numel(), block, shape.kv_heads, shape.head_dim, bench.dtype)
            caches = [torch.randn(sizes, device=bench.device).to(bench.dtype) for _ in range(2)]
            q = torch.randn(count * queries, shape.heads, shape.head_dim, device=bench.device, dtype=bench.dtype)
            k, v = torch.randn(2, len(q), shape.kv_heads, shape.head_dim, device=bench.device, dtype=bench.dtype)
            ours = replayed(lambda: layer.forward(q, k, v, *caches, batch))  # noqa: B023
            kv = torch.randn(2, count, shape.kv_heads, context, shape.head_dim, device=bench.device, dtype=bench.dtype)
            rows = q.view(count, queries, shape.heads, shape.head_dim).transpose(1, 2)
            theirs = replayed(
                lambda: F.scaled_dot_product_attention(rows, *kv, is_causal=queries > 1, enable_gqa=True)  # noqa: B023
            )
            moved = 2 * count * context * shape.kv_heads * shape.head_dim * bench.dtype.itemsize / bench.bandwidth
            worked = 2.0 * queries**2 * shape.heads * shape.head_dim / bench.flops if queries > 1 else 0.0
            yield {
                "what": f"{count} x {queries} at {context}; torch's {theirs * 1e6:.0f} us", "value": ours * 1e6,
                "unit": "us", "limit": max(moved, worked) * 1e6,
            }  # fmt: skip


def replayed(work: Callable[[], Any]) -> float:
    """Seconds of `work` as a CUDA graph, so that launches do not count."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        graph.replay()
    first.record()
    for _ in range(10):
        graph.replay()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 10 / 1e3
