"""On a real GPU, compiled: every GPU backend computes what the reference computes, also when a step is replayed."""

from dataclasses import replace

import pytest
import torch
from attention_cases import Case, PagedRun, biases, named_cases, random_case, spec

from textgen_server.attention.base import Attention
from textgen_server.attention.select import FLOAT8_CAPABILITY
from textgen_server.registry import ATTENTION_BACKENDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: compiled attention kernels are NOT tested here"),
]

# How far a result may lie from that of a full cache; see test_agreement.py.
ROUNDED = {torch.float8_e4m3fn: 0.2, torch.float8_e5m2: 0.35}
GPU_BACKENDS = [name for name, entry in ATTENTION_BACKENDS.items() if "cuda" in entry.devices]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def load(name: str, dtype: torch.dtype, block_size: int) -> type[Attention]:
    try:
        backend: type[Attention] = ATTENTION_BACKENDS[name].load()
    except ImportError as error:
        pytest.skip(f"attention backend {name} is not tried here: {error}")
    if dtype not in backend.dtypes or block_size % backend.block_size_multiple:
        pytest.skip(f"{name} takes no {dtype} or no blocks of {block_size}")
    return backend


def agrees(name: str, case: Case, dtype: torch.dtype) -> None:
    backend = load(name, dtype, case.block_size)
    if case.relative and not backend.relative:
        pytest.skip(f"{name} has no bias by distance")
    run = PagedRun(case, torch.device("cuda"), dtype)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(run.attended_by(backend), run.expected(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", GPU_BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("block_size", [16, 256])
@pytest.mark.parametrize("case", named_cases(), ids=lambda case: case.name)
def test_equals_the_reference(name: str, dtype: torch.dtype, block_size: int, case: Case) -> None:
    agrees(name, replace(case, block_size=block_size, shared_blocks=0), dtype)


@pytest.mark.parametrize("name", GPU_BACKENDS)
@pytest.mark.parametrize("seed", range(20))
def test_equals_the_reference_on_random_long_steps(name: str, seed: int) -> None:
    agrees(name, random_case(seed, longest=2000), torch.bfloat16)


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_captured_decode_replays_with_other_lengths(name: str) -> None:
    dtype = torch.bfloat16
    backend = load(name, dtype, 256)
    run = PagedRun(Case("capture", spec(8, 2, 128), (1,) * 4, (3000, 900, 5, 0), 256), torch.device("cuda"), dtype)
    layer, pools = backend(run.spec_on_device()), run.pools(backend)
    run.fill(layer, pools)
    k, v = run.keys_and_values(run.step)
    layer.forward(run.q, k, v, *pools, run.step)  # compile before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = layer.forward(run.q, k, v, *pools, run.step)
    for contexts in ([3001, 901, 6, 1], [2000, 300, 2, 1]):
        later = run.batch([1] * 4, contexts, decodes=4)
        for captured, value in zip((k, v), run.keys_and_values(later), strict=True):
            captured.copy_(value)
        run.step.context_lens.copy_(later.context_lens)
        run.step.slots.copy_(later.slots)
        graph.replay()
        torch.testing.assert_close(replayed, run.expected(later), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("options", [{}, {"relative_bias": biases(8, 60)}], ids=["plain", "bias"])
def test_a_cache_of_8_bits_is_near_the_full_one(dtype: torch.dtype, options: dict[str, torch.Tensor]) -> None:
    if torch.cuda.get_device_capability() < FLOAT8_CAPABILITY:
        pytest.skip("this GPU has no 8-bit floats")
    backend = load("triton", torch.bfloat16, 32)
    case = Case("rounded", spec(8, 2, 128, **options), (1, 1, 1, 40, 300), (3000, 90, 17, 60, 0), block_size=32)
    run = PagedRun(case, torch.device("cuda"), torch.bfloat16)
    difference = (run.attended_by(backend, cache_dtype=dtype) - run.expected()).abs()
    assert difference.max() < ROUNDED[dtype]
