"""Every kernel by itself beside what this device's memory and arithmetic allow, on CPUs and GPUs alike: a table.

    python bench/kernels.py                  SmolLM2's shapes in float32 on a CPU, Mistral-7B's in bfloat16 on a GPU
    python bench/kernels.py --only attention --cache-dtype float8_e4m3fn
    python bench/kernels.py --shape mistral --rows 1,8 --only linear

`of limit` is the time that the slower of its bytes and its operations would take at the ceilings in the head: a copy's
bandwidth and a matrix product's speed in --dtype, measured here, which products of int8 may pass. Matrices and caches
are used in turn, so that none is found in a cache; on a GPU a turn is one graph. Times are the least of several.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from gpu_model import MISTRAL, Shape
from torch import Tensor

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.attention.select import block_size_for, choose
from textgen_server.errors import StartupError
from textgen_server.layers.linear import Linear, PackedLinear, can_pack, dense
from textgen_server.native import library as native
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.scaled import Rounding, Scaled
from textgen_server.quantization.scaled_linear import scaled_layer
from textgen_server.registry import ATTENTION_BACKENDS

SMOLLM2 = Shape(hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, vocabulary=49152, positions=8192)
TINY = Shape(hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, vocabulary=256, positions=256)
SHAPES = {"smollm2": SMOLLM2, "mistral": MISTRAL, "tiny": TINY}
# (sequences, query tokens of each, context of each)
WORKLOADS = {
    "smollm2": [*((n, 1, context) for context in (200, 2048) for n in (1, 8, 32)), (1, 170, 170), (1, 256, 2048)],
    "mistral": [*((n, 1, 1024) for n in (1, 8, 32, 128, 256)), (1, 1, 32768), (8, 1, 32768), (1, 8192, 8192)],
    "tiny": [(2, 1, 40), (1, 9, 9)],
}
GROUP = 128


@dataclass(frozen=True)
class Ceilings:
    """Bytes and floating point operations per second."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Row:
    """One kernel at one size: seconds, bytes that it must move, and operations that it must do."""

    kernel: str
    size: str
    seconds: float
    moved: float
    flops: float

    def line(self, ceilings: Ceilings) -> str:
        least = max(self.moved / ceilings.bandwidth, self.flops / ceilings.flops)
        return (
            f"| {self.kernel} | {self.size} | {self.seconds * 1e6:.1f} | {self.moved / 1e6:.2f} | "
            f"{self.flops / 1e6:.1f} | {self.moved / self.seconds / 1e9:.1f} | "
            f"{self.flops / self.seconds / 1e9:.0f} | {least / self.seconds:.0%} |"
        )


HEAD = """| kernel | size | us | MB | MFLOP | GB/s | GFLOP/s | of limit |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Bench:
    """What kernels are measured with.

    Attributes:
        seconds: to spend on each row.
        spread: bytes of weights or caches that are used in turn.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    seconds: float
    spread: int

    @property
    def shape(self) -> Shape:
        return SHAPES[self.name]

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(self.dtype)

    def copies(self, size: float) -> int:
        """How many things of `size` bytes are used in turn."""
        return max(1, min(64, int(self.spread / size)))

    def time(self, turn: Callable[[], Any]) -> float:
        """Seconds of a turn, the least of several."""
        run = turn if self.device.type != "cuda" else _graph(turn).replay
        run()
        times: list[float] = []
        until = time.perf_counter() + self.seconds
        while len(times) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            run()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    def ceilings(self) -> Ceilings:
        source = torch.ones(self.spread // 4, device=self.device)
        target, side = torch.empty_like(source), 8192 if self.device.type == "cuda" else 1024
        a, b = self.random(side, side), self.random(side, side)
        patient = replace(self, seconds=10 * self.seconds)
        copied, multiplied = patient.time(lambda: target.copy_(source)), patient.time(lambda: a @ b)
        return Ceilings(2 * source.nbytes / copied, 2 * side**3 / multiplied)


def _graph(turn: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    for _ in range(2):  # compile, and measure what is chosen by measuring
        turn()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turn()
    return graph


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """[out, in] of a layer's, as they stand together, and of the output head."""
    qkv = shape.hidden + 2 * shape.kv_heads * shape.head_dim
    return {
        "qkv": (qkv, shape.hidden), "out": (shape.hidden, shape.hidden),
        "gate-up": (2 * shape.intermediate, shape.hidden), "down": (shape.hidden, shape.intermediate),
        "head": (shape.vocabulary, shape.hidden),
    }  # fmt: skip


def linear_layers(bench: Bench, out: int, size: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """By name: a function that makes a layer [out, in], and how many bytes its weights have."""
    numbers = out * size

    def scaled(kind: torch.dtype, rounding: Rounding | None) -> Callable[[], Any]:
        codes = torch.randint(-100, 100, (out, size)).to(torch.int8)
        block = Scaled(codes if kind == torch.int8 else codes.to(kind), torch.rand(out, 1), size, 0, rounding)
        return lambda: scaled_layer(block, bench.device)

    found: dict[str, tuple[Callable[[], Any], float]] = {
        "torch": (lambda: Linear(bench.random(out, size), None), numbers * bench.dtype.itemsize),
        "chosen": (lambda: dense(bench.random(out, size)), numbers * bench.dtype.itemsize),
        "int8 weights": (scaled(torch.int8, None), numbers),
        "int8": (scaled(torch.int8, Rounding()), numbers),
    }
    if can_pack(bench.device, bench.dtype):
        found["oneDNN"] = (lambda: PackedLinear(bench.random(out, size), None), numbers * 4)
    if bench.device.type == "cuda":
        found["float8 weights"] = (scaled(torch.float8_e4m3fn, None), numbers)
        found |= {"int4 groups": (lambda: _grouped(bench, out, size), numbers * (0.5 + 3 / GROUP))}
        found |= _ours(bench, out, size)
    return found


def _ours(bench: Bench, out: int, size: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """The kernel that `dense` chooses where it is the faster one."""
    from textgen_server.layers.skinny import FEW_ROWS, SkinnyLinear

    def layer() -> Callable[[Tensor], Tensor]:
        own = SkinnyLinear(bench.random(out, size), None)
        return lambda x: own.multiplied(x) if len(x) <= FEW_ROWS else F.linear(x, own.weight)

    return {"ours": (layer, out * size * bench.dtype.itemsize)}


def _grouped(bench: Bench, out: int, size: int) -> Callable[[Tensor], Tensor]:
    from textgen_server.quantization.grouped_linear import GroupedLinear

    groups = -(-size // GROUP)
    codes = torch.randint(0, 16, (size, out), dtype=torch.uint8)
    zeros = torch.full((groups, out), 8, dtype=torch.uint8)
    block = Grouped(codes, torch.rand(groups, out).half(), zeros, torch.arange(size) // GROUP, 4)
    return GroupedLinear(block, bench.device, bench.dtype)


def linears(bench: Bench, rows: list[int]) -> Iterator[Row]:
    """Layers in turn, each with weights of its own."""
    for name, (out, size) in matrices(bench.shape).items():
        for kind, (make, weight_bytes) in linear_layers(bench, out, size).items():
            layers = [make() for _ in range(bench.copies(weight_bytes))]
            for count in rows:
                x = bench.random(count, size)
                seconds = bench.time(lambda layers=layers, x=x: [layer(x) for layer in layers]) / len(layers)
                moved = weight_bytes + count * (size + out) * bench.dtype.itemsize
                yield Row(
                    f"linear, {kind}", f"{name} {out} x {size}, {count} rows", seconds, moved, 2.0 * count * out * size
                )


def attentions(bench: Bench, backends: list[str]) -> Iterator[Row]:
    """One layer's attention, over pools of its own in turn."""
    shape = bench.shape
    spec = AttentionSpec(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim**-0.5)
    for name in backends:
        try:
            backend = choose(name, bench.device.type, bench.dtype, shape.head_dim, cache_dtype=bench.cache_dtype)
        except StartupError:
            continue
        for count, queries, context in WORKLOADS[bench.name]:
            batch = step(count, queries, context, block_size_for(backend, None), bench.device)
            yield _attention(bench, name, backend, spec, batch)


def _attention(bench: Bench, name: str, backend: type[Attention], spec: AttentionSpec, batch: AttentionBatch) -> Row:
    lengths = list(zip(batch.query_lens, batch.host_context_lens, strict=True))
    keys = sum(context for _, context in lengths)
    moved = 2.0 * keys * spec.num_kv_heads * spec.head_dim * bench.cache_dtype.itemsize
    pairs = sum(queries * (context - (queries - 1) / 2) for queries, context in lengths)
    blocks, size = batch.block_tables.numel(), batch.block_size
    sizes = backend.pool_shape(blocks, size, spec.num_kv_heads, spec.head_dim, bench.cache_dtype)
    # Of 8 bits, random scales would make infinities; zeros take as long to read.
    fill = torch.zeros if bench.cache_dtype.itemsize == 1 else torch.randn
    pools = [
        [fill(sizes, device=bench.device).to(bench.cache_dtype) for _ in range(2)] for _ in range(bench.copies(moved))
    ]
    tokens = len(batch.slots)
    q = bench.random(tokens, spec.num_heads, spec.head_dim)
    k, v = (bench.random(tokens, spec.num_kv_heads, spec.head_dim) for _ in range(2))
    layer = backend(spec)

    def turn() -> None:
        fresh = replace(batch)  # plans of a step are made in it
        for k_cache, v_cache in pools:
            layer.forward(q, k, v, k_cache, v_cache, fresh)

    seconds = bench.time(turn) / len(pools)
    label = f"{len(lengths)} x {lengths[0][0]} at {lengths[0][1]}"
    return Row(f"attention, {name}", label, seconds, moved, 4 * pairs * spec.num_heads * spec.head_dim)


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


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, Bench]:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="mistral" if cuda else "smollm2")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32", help="of torch")
    parser.add_argument("--cache-dtype", help="of torch, as float8_e4m3fn; default: as --dtype")
    parser.add_argument("--rows", default="1,8,32,256" if cuda else "1,8,32")
    backends = [name for name in ATTENTION_BACKENDS if name != "reference"]
    parser.add_argument("--backends", default=",".join(backends), help="default: all that run here but the reference")
    parser.add_argument("--only", choices=["linear", "attention"])
    parser.add_argument("--seconds", type=float, default=0.05, help="for each row")
    parser.add_argument("--spread", type=float, default=0.5 if cuda else 0.1, help="GB of weights used in turn")
    args = parser.parse_args(argv)
    dtype = getattr(torch, args.dtype)
    cache_dtype = getattr(torch, args.cache_dtype) if args.cache_dtype else dtype
    device = torch.device(args.device)
    return args, Bench(args.shape, device, dtype, cache_dtype, args.seconds, int(args.spread * 1e9))


def main(argv: list[str] | None = None) -> None:
    args, bench = parse(argv)
    if bench.device.type == "cpu":
        native.use()
    with torch.inference_mode():
        ceilings = bench.ceilings()
        where = torch.cuda.get_device_name() if bench.device.type == "cuda" else f"{torch.get_num_threads()} threads"
        print(
            f"{args.shape}, {args.dtype}, {where}: {ceilings.bandwidth / 1e9:.0f} GB/s, "
            f"{ceilings.flops / 1e9:.0f} GFLOP/s\n\n{HEAD}"
        )
        if args.only != "attention":
            for row in linears(bench, [int(count) for count in args.rows.split(",")]):
                print(row.line(ceilings), flush=True)
        if args.only != "linear":
            for row in attentions(bench, args.backends.split(",")):
                print(row.line(ceilings), flush=True)


if __name__ == "__main__":
    main()
