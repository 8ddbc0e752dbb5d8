"""Arithmetic of memory: what a model asks of each shard, and what would make it fit where it does not.

Numbers in, bytes out: no file is opened, no device is asked, and no torch is imported, so that whoever knows how large
a model is can ask before anything is loaded. runner/outline.py does, with what it read from a checkpoint's headers; the
operator may, with what it knows of a model and of its nodes' GPUs.

What it does not know are the tensors of a step. They are measured (runner/sizing.py), so a model that fits by this
arithmetic may still turn out too large; one that does not fit by it never fits.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from textgen_server import registry

BITS: Mapping[str, float] = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    # With the scale of each key and value: 32 bits for the 64 numbers of a small head.
    "fp8_e4m3fn": 8.5,
    "fp8_e5m2": 8.5,
}
"""Of a number in each type that weights or a KV cache may have."""

MOST_SHARDS = 64


@dataclass(frozen=True)
class ModelSize:
    """How many numbers a model, or one shard of it, is made of.

    Attributes:
        linear: in the matrices of linear layers, which quantization methods quantize.
        other: in all other weights: embeddings, output head, norms, biases.
        cached: in the KV cache, for each token: keys and values of all layers.
    """

    linear: int
    other: int
    cached: int

    def shard(self, count: int) -> "ModelSize":
        """One of `count` shards. Not exact: what all shards hold (norms, KV heads that are too few) is taken as cut."""
        return ModelSize(*(math.ceil(number / count) for number in (self.linear, self.other, self.cached)))


@dataclass(frozen=True)
class Form:
    """How the numbers are held, and how many tokens the KV cache is to hold at least.

    Attributes:
        dtype: type of the weights; a name in BITS.
        cache_dtype: type of keys and values; a name in BITS.
        linear_bits: bits of a number in linear layers, with its share of scales; None for `dtype`'s.
    """

    dtype: str
    cache_dtype: str
    tokens: int
    linear_bits: float | None = None


@dataclass(frozen=True)
class Demand:
    """Bytes."""

    weights: int
    kv_cache: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache


def demand(size: ModelSize, form: Form) -> Demand:
    """What `size` takes in `form`."""
    linear_bits = BITS[form.dtype] if form.linear_bits is None else form.linear_bits
    weights = size.linear * linear_bits + size.other * BITS[form.dtype]
    return Demand(math.ceil(weights / 8), math.ceil(size.cached * form.tokens * BITS[form.cache_dtype] / 8))


def shortage(
    size: ModelSize, form: Form, room: int, place: str, shards: int = 1, gpu: bool = True, nodes: int = 1
) -> str | None:
    """Why one of `shards` shards, of this `size` and `form`, does not fit into `room` bytes at `place`, how much is
    missing, and which flags would help; None where it fits. The shards are on `nodes` nodes."""
    needed = demand(size, form)
    missing = needed.total - room
    if missing <= 0:
        return None
    parts = [f"{_gb(needed.weights)} of weights"]
    if needed.kv_cache:
        parts.append(f"{_gb(needed.kv_cache)} of KV cache for {form.tokens} tokens")
    of = "the model" if shards == 1 else f"each of the {shards} shards"
    ways = list(_remedies(size, form, room, shards, gpu, nodes))
    advice = f"it would fit with {' or '.join(ways)}" if ways else "choose a smaller model, or a place with more memory"
    return (
        f"{of} needs {' and '.join(parts)}, and {_gb(room)} are free on {place}: {_gb(missing)} are missing; {advice}"
    )


def _remedies(size: ModelSize, form: Form, room: int, shards: int, gpu: bool, nodes: int) -> Iterator[str]:
    """Flags, each of which alone suffices; the least harmful of each kind."""

    def fits(form: Form, size: ModelSize = size) -> bool:
        return demand(size, form).total <= room

    needed = demand(size, form)
    # Of a token's own share little is left over by rounding; two tokens are the shortest request.
    if needed.kv_cache and (tokens := form.tokens * (room - needed.weights) // needed.kv_cache) > 1:
        yield f"--max-total-tokens {tokens}"
    if BITS[form.dtype] > 16 and fits(replace(form, dtype="bfloat16", cache_dtype="bfloat16")):
        yield "--dtype bfloat16"
    if not gpu and BITS[form.cache_dtype] > 16 and fits(replace(form, cache_dtype="bfloat16")):
        yield "--kv-cache-dtype bfloat16"
    if form.linear_bits is None:
        bits = {name: method.bits for name, method in registry.QUANTIZATION_METHODS.items() if method.bits}
        fitting = [name for name in bits if fits(replace(form, linear_bits=bits[name]))]
        if fitting:
            yield f"--quantize {max(fitting, key=lambda name: bits[name])}"
    if gpu and BITS[form.cache_dtype] > 8.5 and fits(replace(form, cache_dtype="fp8_e4m3fn")):
        yield "--kv-cache-dtype fp8_e4m3fn"
    if gpu:
        counts = (count for count in range(2, MOST_SHARDS // shards + 1) if fits(form, size.shard(count)))
        if (count := next(counts, None)) is not None:
            yield f"--num-shard {shards // nodes * count}"


def _gb(num_bytes: int) -> str:
    """Bytes for people, in GB of 10^9."""
    return f"{max(num_bytes, 0) / 1e9:.{1 if num_bytes >= 1e8 else 4}f} GB"
