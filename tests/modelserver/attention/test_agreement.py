"""Every attention backend that can run here computes what the reference computes."""

import pytest
import torch
from attention_cases import Case, PagedRun, biases, named_cases, slopes, spec

from textgen_server.attention.base import Attention
from textgen_server.registry import ATTENTION_BACKENDS

CUDA = torch.cuda.is_available()
# Without a GPU, Triton kernels run in Triton's interpreter on the CPU (see tests/conftest.py).
DEVICES = {"native": "cpu", "cpu": "cpu", "reference": "cpu", "triton": "cuda" if CUDA else "cpu", "flash": "cuda"}

# On a GPU, float32 products are three of TF32.
TOLERANCE = {("cpu", torch.float32): 2e-5, ("cuda", torch.float32): 1e-4, ("cuda", torch.bfloat16): 2e-2}

# How far a result may lie from that of a full cache. Keys and values are drawn from a normal distribution.
ROUNDED = {torch.bfloat16: 0.02, torch.float8_e4m3fn: 0.15, torch.float8_e5m2: 0.3}
ROUNDED_CASES = [
    Case("decodes and chunks", spec(), (1, 1, 7, 20), (40, 3, 16, 29)),
    Case("heads of 80, every option", spec(6, 3, 80, softcap=5.0, window=19, alibi_slopes=slopes(6)), (1, 9), (40, 16)),
    Case("encoder-decoder", spec(4, 4, relative_bias=biases(4, 30)), (1, 3), (40, 17), first_keys=(17, 17)),
]


def load(name: str) -> tuple[type[Attention], torch.device]:
    if DEVICES[name] == "cuda" and not CUDA:
        pytest.skip(f"NO GPU: attention backend {name} is not tried here; tests/gpu does it on a CUDA device")
    try:
        return ATTENTION_BACKENDS[name].load(), torch.device(DEVICES[name])
    except ImportError as error:
        pytest.skip(f"attention backend {name} is not tried here: {error}")


def fits(case: Case, backend: type[Attention]) -> bool:
    possible = case.block_size % backend.block_size_multiple == 0 and backend.obstacle(case.spec.head_dim) is None
    return possible and (backend.relative or not case.relative)


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
@pytest.mark.parametrize("case", named_cases(), ids=lambda case: case.name)
def test_equals_the_reference(name: str, case: Case) -> None:
    backend, device = load(name)
    dtype = torch.float32 if torch.float32 in backend.dtypes else torch.bfloat16
    if not fits(case, backend):
        pytest.skip(f"{name} has no kernel for blocks of {case.block_size} and heads of {case.spec.head_dim}")
    run = PagedRun(case, device, dtype)
    tolerance = TOLERANCE[device.type, dtype]
    torch.testing.assert_close(run.attended_by(backend), run.expected(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_exact_as_its_inputs(name: str, dtype: torch.dtype) -> None:
    backend, device = load(name)
    if name == "triton" and device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers; tests/gpu tries it")
    if dtype not in backend.dtypes:
        pytest.skip(f"{name} does not compute in {dtype}")
    case = Case("halves", spec(), (1, 1, 20, 9), (40, 3, 0, 17), block_size=backend.preferred_block_size)
    run = PagedRun(case, device, dtype)
    torch.testing.assert_close(run.attended_by(backend), run.expected(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
def test_keys_and_values_go_where_slots_say(name: str) -> None:
    backend, device = load(name)
    dtype = torch.float32 if torch.float32 in backend.dtypes else torch.bfloat16
    case = Case("writes", spec(), (1, 1, 20, 9), (0, 3, 0, 17), block_size=backend.preferred_block_size)
    run = PagedRun(case, device, dtype)
    pools = run.pools(backend)
    backend(run.spec_on_device()).forward(run.q, *run.keys_and_values(run.step), *pools, run.step)
    for pool, expected in zip(pools, run.reference_pools(run.step), strict=True):
        # The order inside a block is the backend's own; what is in each block is not.
        torch.testing.assert_close(pool.flatten(1).sort().values, expected.flatten(1).sort().values, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
@pytest.mark.parametrize("case", ROUNDED_CASES, ids=lambda case: case.name)
def test_a_cache_of_fewer_bits_is_near_the_full_one(name: str, case: Case, dtype: torch.dtype) -> None:
    """Compared with the reference over keys and values as they were."""
    backend, device = load(name)
    if dtype not in backend.cache_dtypes:
        pytest.skip(f"{name} keeps no cache in {dtype}")
    run = PagedRun(case, device, torch.float32)
    difference = run.attended_by(backend, cache_dtype=dtype) - run.expected()
    assert difference.abs().max() < ROUNDED[dtype]
    assert difference.abs().max() > 0, "it was not rounded at all"


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
def test_keys_that_are_there_already_can_be_attended_to(name: str) -> None:
    """As cross-attention does."""
    backend, device = load(name)
    if not backend.relative:
        pytest.skip(f"{name} serves no encoder-decoders")
    run = PagedRun(Case("cross", spec(), (1, 1, 20, 9), (40, 3, 0, 17)), device, torch.float32)
    layer, pools = backend(run.spec_on_device()), run.pools(backend)
    run.fill(layer, pools)
    layer.write(*run.keys_and_values(run.step), *pools, run.step.slots, run.step.block_size)
    tolerance = TOLERANCE[device.type, torch.float32]
    torch.testing.assert_close(layer.attend(run.q, *pools, run.step), run.expected(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
def test_inputs_may_be_slices_of_one_projection(name: str) -> None:
    """q, k and v as a fused projection leaves them: rows of a wider tensor."""
    backend, device = load(name)
    dtype = torch.float32 if torch.float32 in backend.dtypes else torch.bfloat16
    case = Case("strided", spec(), (1, 1, 6), (0, 0, 0), block_size=backend.preferred_block_size)
    run = PagedRun(case, device, dtype)
    fused = torch.cat([run.q, *run.keys_and_values(run.step)], dim=1)
    q, k, v = fused.split([run.q.shape[1], case.spec.num_kv_heads, case.spec.num_kv_heads], dim=1)
    attended = backend(run.spec_on_device()).forward(q, k, v, *run.pools(backend), run.step)
    tolerance = TOLERANCE[device.type, dtype]
    torch.testing.assert_close(attended, run.expected(), rtol=tolerance, atol=tolerance)


def test_a_plan_is_made_once_per_step() -> None:
    run = PagedRun(Case("plan", spec(), (1,), (3,)), torch.device("cpu"), torch.float32)
    made: list[int] = []

    def build(batch: object, size: int) -> int:
        made.append(size)
        return size

    assert [run.step.plan(build, 1), run.step.plan(build, 1), run.step.plan(build, 2)] == [1, 1, 2]
    assert made == [1, 2]
