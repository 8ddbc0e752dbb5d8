"""Whether the model, and a KV cache for its longest request, fit into the GPUs that the spec asks for, as far as can be
told before a pod is scheduled.

A warning, and no more: nothing depends on it. The model's size is what an earlier start found, else what the model's
name says, which is a guess and called so; so is the size of its KV cache, because the operator does not read the
model's config. The GPU's memory is what the spec says of it: gpu.minMemory, the profile of a MIG device, or the
products' names. Where the model's size is not known, nothing is said.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from textgen_operator import quantity
from textgen_operator.resource import Gpu, Spec
from textgen_operator.status.observed import Observed
from textgen_operator.status.verdict import Verdict
from textgen_server.memory import BITS, Demand, Form, ModelSize, demand
from textgen_server.registry import QUANTIZATION_METHODS

MEMORY_SUFFICIENT = "MemorySufficient"

_BILLIONS = re.compile(r"(?<![0-9A-Za-z.])([0-9]+(?:\.[0-9]+)?)(b|m)(?![A-Za-z0-9])", re.IGNORECASE)
_PACKED = re.compile(r"awq|gptq|gguf|bnb|int[48]|[48]-?bit|fp[48]|w[48]a", re.IGNORECASE)
"""Names of checkpoints that are quantized already: their numbers take no 16 bits."""

_GIGABYTES = re.compile(r"(?<![0-9])([0-9]+)gb", re.IGNORECASE)
_PRODUCTS = {
    **{"T4": 16, "A10": 24, "A10G": 24, "L4": 24, "A40": 48, "L40": 48, "L40S": 48, "A6000": 48},
    **{"H200": 141, "B200": 180},
}
"""GB of products whose names do not say it, as a part of the label nvidia.com/gpu.product."""

_OVERHEAD = 1_500_000_000
"""Bytes of each GPU, about: CUDA with its libraries, and the tensors of a step."""

_LLAMA_3_8B = 8e9, 2 * 32 * 8 * 128
"""Parameters, and numbers in the KV cache for each token: keys and values of 32 layers with 8 heads of 128."""


@dataclass(frozen=True)
class _Needs:
    """What each shard takes, and how that is known."""

    demand: Demand
    tokens: int
    how: str

    @property
    def total(self) -> int:
        return self.demand.total + _OVERHEAD

    def __str__(self) -> str:
        cache = f"{_gb(self.demand.kv_cache)} of KV cache for limits.maxTotalTokens ({self.tokens}), "
        parts = f"{_gb(self.demand.weights)} of weights, {cache if self.tokens else ''}{_gb(_OVERHEAD)} besides"
        return f"{self.how}: {parts}: {_gb(self.total)} on each GPU"


def verdicts(observed: Observed) -> Iterator[Verdict]:
    """The condition, if anything can be said."""
    if observed.intent is None:
        return
    spec = observed.intent.service.spec
    needs = _needs(spec, observed.intent.service.status) if spec.gpu.count else None
    if needs is None:
        return
    room = _room(spec.gpu)
    if room is None:
        unknown = "; how much its GPUs have is not known: set gpu.minMemory, or gpu.products"
        yield Verdict(MEMORY_SUFFICIENT, "Unknown", "GPUNotKnown", f"{needs}{unknown}")
        return
    free, where = room
    message = f"{needs}; {where} {_gb(free)}"
    if needs.total <= free:
        yield Verdict(MEMORY_SUFFICIENT, "True", "ModelFits", message)
    else:
        fewer = ", or lower limits.maxTotalTokens" if needs.tokens else ""
        remedy = (
            "; raise gpu.count or nodes, or choose larger GPUs" + ("" if spec.quantize else ", or quantize") + fewer
        )
        yield Verdict(MEMORY_SUFFICIENT, "False", "ModelTooLarge", message + remedy)


def _needs(spec: Spec, status: dict[str, object]) -> _Needs | None:
    """What each shard needs; None where nobody knows how large the model is."""
    known = status.get("model")
    stored = known.get("sizeBytes") if isinstance(known, dict) and known.get("name") == spec.model else None
    dtype, tokens = spec.dtype or "bfloat16", spec.limits.max_total_tokens or 0
    cache_dtype = dtype if spec.kv_cache_dtype in (None, "auto") else spec.kv_cache_dtype
    if stored and spec.quantize is None and spec.dtype is None:
        weights = -(-int(stored) // spec.ranks)
        size = ModelSize(linear=0, other=0, cached=cached_numbers(int(stored) // 2)).shard(spec.ranks)
        cache = demand(size, Form(dtype, cache_dtype, tokens)).kv_cache
        return _Needs(Demand(weights, cache), tokens, f"The model is stored in {_gb(int(stored))}")
    name = spec.model.rpartition("/")[2]
    parameters = parameters_in(name)
    bits = QUANTIZATION_METHODS[spec.quantize].bits if spec.quantize else None
    if parameters is None or bits == 0 or (bits is None and _PACKED.search(name)):
        return None
    size = ModelSize(linear=parameters, other=0, cached=cached_numbers(parameters)).shard(spec.ranks)
    how = f"A guess from the model's name, {parameters / 1e9:g} billion numbers of {bits or BITS[dtype]:g} bits"
    return _Needs(demand(size, Form(dtype, cache_dtype, tokens, bits)), tokens, how)


def cached_numbers(parameters: int) -> int:
    """A guess of how many numbers a KV cache holds for each token: Llama 3 8B's, by the root of the parameters. Within
    a factor of two for models with grouped-query attention from 3 to 70 billion; without it, it is several times that.
    """
    known, numbers = _LLAMA_3_8B
    return round(numbers * math.sqrt(parameters / known))


def parameters_in(name: str) -> int | None:
    """How many parameters a model has by its name, as 7b or 360M; None where it says none, or several."""
    found = {(number, unit.lower()) for number, unit in _BILLIONS.findall(name)}
    if len(found) != 1:
        return None
    number, unit = found.pop()
    return int(float(number) * (1e9 if unit == "b" else 1e6))


def _room(gpu: Gpu) -> tuple[int, str] | None:
    """Bytes of the least GPU that the spec takes, and where it says so."""
    if gpu.min_memory is not None:
        return int(quantity.parse(gpu.min_memory)), "gpu.minMemory takes GPUs of"
    device = _GIGABYTES.search(gpu.resource_name)
    if device:
        return int(device[1]) * 10**9, f"{gpu.resource_name} has"
    sizes = [_gigabytes_of(product) for product in gpu.products]
    least = min((size or 0 for size in sizes), default=0)
    return (least * 10**9, "gpu.products takes GPUs of") if least else None


def _gigabytes_of(product: str) -> int | None:
    said = _GIGABYTES.search(product)
    if said:
        return int(said[1])
    return next((_PRODUCTS[part] for part in product.split("-") if part in _PRODUCTS), None)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
