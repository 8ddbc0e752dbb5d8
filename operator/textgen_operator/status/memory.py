"""Whether the weights fit into the GPUs that the spec asks for, as far as can be told before a pod is scheduled.

A warning, and no more: nothing depends on it. The model's size is what an earlier start found, else what the model's
name says, which is a guess and called so. The GPU's memory is what the spec says of it: gpu.minMemory, the profile of a
MIG device, or the products' names. Where one of the two is not known, nothing is said. The KV cache is not counted,
because its size for each token stands in the model's config, which the operator does not read.
"""

import re
from collections.abc import Iterator

from textgen_operator import quantity
from textgen_operator.resource import Gpu, Spec
from textgen_operator.status.observed import Observed
from textgen_operator.status.verdict import Verdict
from textgen_server.memory import BITS, Form, ModelSize, demand
from textgen_server.registry import QUANTIZATION_METHODS

MEMORY_SUFFICIENT = "MemorySufficient"

_BILLIONS = re.compile(r"(?<![0-9A-Za-z.])([0-9]+(?:\.[0-9]+)?)(b|m)(?![A-Za-z0-9])", re.IGNORECASE)
_PACKED = re.compile(r"awq|gptq|gguf|bnb|int[48]|[48]-?bit|fp[48]|w[48]a", re.IGNORECASE)
"""Names of checkpoints that are quantized already: their numbers take no 16 bits."""

_GIGABYTES = re.compile(r"(?<![0-9])([0-9]+)gb", re.IGNORECASE)


def verdicts(observed: Observed) -> Iterator[Verdict]:
    """The condition, if anything can be said."""
    if observed.intent is None:
        return
    spec = observed.intent.service.spec
    weights, room = _weights(spec, observed.intent.service.status), _room(spec.gpu)
    if weights is None or room is None:
        return
    needed, how = weights
    free, where = room
    message = (
        f"{how}: {needed / 1e9:.1f} GB of weights for each of {spec.ranks} shards, without KV cache; "
        f"{where} {free / 1e9:.1f} GB"
    )
    if needed <= free:
        yield Verdict(MEMORY_SUFFICIENT, "True", "WeightsFit", message)
    else:
        remedy = "; raise gpu.count or nodes, or choose larger GPUs" + ("" if spec.quantize else ", or quantize")
        yield Verdict(MEMORY_SUFFICIENT, "False", "ModelTooLarge", message + remedy)


def _weights(spec: Spec, status: dict[str, object]) -> tuple[int, str] | None:
    """Bytes of weights on each shard, and how that is known."""
    known = status.get("model")
    stored = known.get("sizeBytes") if isinstance(known, dict) and known.get("name") == spec.model else None
    if stored and spec.quantize is None and spec.dtype is None:
        return -(-int(stored) // spec.ranks), f"The model is stored in {int(stored) / 1e9:.1f} GB"
    name = spec.model.rpartition("/")[2]
    parameters = parameters_in(name)
    bits = QUANTIZATION_METHODS[spec.quantize].bits if spec.quantize else None
    if parameters is None or bits == 0 or (bits is None and _PACKED.search(name)):
        return None
    dtype = spec.dtype or "bfloat16"
    size = ModelSize(linear=parameters, other=0, cached=0).shard(spec.ranks)
    needed = demand(size, Form(dtype, dtype, tokens=0, linear_bits=bits)).weights
    how = f"A guess from the model's name: {parameters / 1e9:g} billion numbers of {bits or BITS[dtype]:g} bits"
    return needed, how


def parameters_in(name: str) -> int | None:
    """How many parameters a model has by its name, as 7b or 360M; None where it says none, or several."""
    found = {(number, unit.lower()) for number, unit in _BILLIONS.findall(name)}
    if len(found) != 1:
        return None
    number, unit = found.pop()
    return int(float(number) * (1e9 if unit == "b" else 1e6))


def _room(gpu: Gpu) -> tuple[int, str] | None:
    """Bytes of the least GPU that the spec takes, and where it says so."""
    if not gpu.count:
        return None
    if gpu.min_memory is not None:
        return int(quantity.parse(gpu.min_memory)), "gpu.minMemory takes GPUs of"
    device = _GIGABYTES.search(gpu.resource_name)
    if device:
        return int(device[1]) * 10**9, f"{gpu.resource_name} has"
    products = [_GIGABYTES.search(product) for product in gpu.products]
    sizes = [int(product[1]) for product in products if product]
    if sizes and len(sizes) == len(products):
        return min(sizes) * 10**9, "gpu.products takes GPUs of"
    return None
