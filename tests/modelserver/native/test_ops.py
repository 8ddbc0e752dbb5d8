"""The CPU's kernels compute what torch's operators do, on this machine and as compiled for older ones."""

import ctypes
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attention_cases import Case, PagedRun, named_cases
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from textgen_server.attention.native import NativeAttention
from textgen_server.layers.rotary import rotate
from textgen_server.native import library, ops
from textgen_server.quantization.scaled import rounded

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module", params=["this machine", "x86-64-v3"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """The kernels in use: for this machine, or with vectors half as wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_loaded", [])
        if request.param != "this machine":
            path = tmp_path_factory.mktemp("kernels") / f"{request.param}.so"
            library._compile(path, request.param)
            patch.setattr(library, "_for_this_machine", lambda flags: path)
        assert library.use()
        loaded = library.kernels()
        assert loaded is not None
        yield loaded


@pytest.mark.parametrize(("features", "depth"), [(33, 7), (64, 64), (5, 100), (200, 33)])
def test_linear_layers_equal_torchs_and_rows_do_not_change_each_other(
    kernels: ctypes.CDLL, features: int, depth: int
) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(features, depth), torch.randn(features)
    layer, plain = ops.NativeLinear(weight, bias), ops.NativeLinear(weight.T.contiguous().T, None)
    for rows in (0, 1, 2, 6, 7, 12, 13, 40):
        wide = torch.randn(rows, depth + 3)
        x = wide[:, :depth]
        torch.testing.assert_close(layer(x), F.linear(x, weight, bias), **TOLERANCE)
        torch.testing.assert_close(plain(x[None]), F.linear(x, weight)[None], **TOLERANCE)
        for row in range(rows):
            assert torch.equal(layer(x)[row], layer(x[row : row + 1])[0])


def in_blocks(kind: GGMLQuantizationType) -> Tensor:
    weight = np.random.default_rng(0).normal(size=(70, 96)).astype(np.float32)
    weight[3] = 0
    weight[4, :32] = 0.25
    return torch.from_numpy(dequantize(quantize(weight, kind), kind))


FORMS = {
    "BLOCKS4, as Q4_1": (ops.Linear.BLOCKS4, lambda: in_blocks(GGMLQuantizationType.Q4_1)),
    "BLOCKS4, as Q4_0": (ops.Linear.BLOCKS4, lambda: in_blocks(GGMLQuantizationType.Q4_0)),
    "BLOCKS8, as Q8_0": (ops.Linear.BLOCKS8, lambda: in_blocks(GGMLQuantizationType.Q8_0)),
    "BFLOAT16": (ops.Linear.BFLOAT16, lambda: torch.randn(70, 96).bfloat16().float() * 2.0**60),
    "FLOAT16": (ops.Linear.FLOAT16, lambda: torch.randn(70, 33).half().float()),
    "FLOAT32": (ops.Linear.FLOAT32, lambda: torch.randn(70, 96)),
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_take_as_few_bytes_as_give_back_the_same_numbers(kernels: ctypes.CDLL, name: str) -> None:
    torch.manual_seed(0)
    kind, make = FORMS[name]
    weight = make()
    small, plain = (ops.NativeLinear(w, None) for w in (weight, torch.cat([weight, torch.randn(1, weight.shape[1])])))
    assert (small.linear.kind, plain.linear.kind) == (kind, ops.Linear.FLOAT32)
    for rows in (1, 5, 12, 13, 40):
        x = torch.randn(rows, weight.shape[1])
        assert torch.equal(small(x), plain(x)[:, : len(weight)])


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0], ids=str)
@pytest.mark.parametrize("number", [torch.nan, torch.inf, 1 / 3])
def test_one_number_that_a_form_would_lose_rules_it_out(
    kernels: ctypes.CDLL, kind: GGMLQuantizationType, number: float
) -> None:
    weight = in_blocks(kind)
    weight[3, 5] = number
    assert ops.NativeLinear(weight, None).linear.kind == ops.Linear.FLOAT32
    assert ops.NativeLinear(weight[:, :48], None).linear.kind == ops.Linear.FLOAT32


def test_weights_of_8_bits_stand_for_their_codes_times_scales(kernels: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    codes, scales = torch.randint(-128, 128, (70, 33), dtype=torch.int8), torch.rand(70, 1)
    layer = ops.NativeInt8Weights(codes, scales)
    for rows in (1, 5, 13):
        x = torch.randn(rows, 33)
        torch.testing.assert_close(layer(x), F.linear(x, codes * scales), rtol=2e-5, atol=2e-3)
        assert all(torch.equal(layer(x)[row], layer(x[row : row + 1])[0]) for row in range(rows))


@pytest.mark.parametrize("scale", [None, 0.02])
@pytest.mark.parametrize(("features", "depth"), [(70, 33), (32, 64)])
def test_products_in_8_bits_are_exact(kernels: ctypes.CDLL, features: int, depth: int, scale: float | None) -> None:
    torch.manual_seed(0)
    codes, scales = torch.randint(-128, 128, (features, depth), dtype=torch.int8), torch.rand(features, 1)
    codes[0], codes[1] = 127, -128
    layer = ops.NativeInt8(codes, scales, scale)
    for rows in (0, 1, 5, 13, 40):
        wide = torch.randn(rows, depth + 3)
        x = wide[:, :depth]
        x[:1], x[1:2], x[2:3] = 10, -10, 0
        rounded_x, of_rows = rounded(x, torch.int8, scale)
        expected = (rounded_x.double() @ codes.double().T).float() * of_rows * scales[:, 0]
        assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x.bfloat16()), layer(x.bfloat16().float()).bfloat16())
    for ours, theirs in zip(ops.rounded_rows(wide[:, :depth]), rounded(wide[:, :depth], torch.int8), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("width", [1, 16, 37, 576])
def test_norms_and_activations_equal_torchs(kernels: ctypes.CDLL, width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, width) * 5, torch.randn(width)
    alone, normed = ops.add_and_rms_norm(x, None, weight, 1e-5)
    assert torch.equal(alone, x)
    torch.testing.assert_close(normed, torch.rms_norm(x, (width,), weight, 1e-5), **TOLERANCE)
    total, normed = ops.add_and_rms_norm(x, x.flip(0), weight, 1e-5)
    assert torch.equal(total, x + x.flip(0))
    torch.testing.assert_close(normed, torch.rms_norm(total, (width,), weight, 1e-5), **TOLERANCE)
    both = torch.cat([x * 20, x], dim=-1)
    both[0, 0] = -200.0  # its exponential is beyond float32
    torch.testing.assert_close(ops.silu_and_multiply(both), F.silu(both[:, :width]) * both[:, width:], **TOLERANCE)


@pytest.mark.parametrize("dim", [4, 32, 64])
def test_rotation_equals_the_layers_and_leaves_the_rest(
    kernels: ctypes.CDLL, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    projected = torch.randn(5, 7, 64)
    cos, sin = torch.randn(5, 1, dim), torch.randn(5, 1, dim)
    turned = projected.clone()
    ops.rotate_(turned[:, :6], cos, sin)
    monkeypatch.setattr(library, "_loaded", [])
    expected = rotate(projected[:, :6], cos, sin)
    torch.testing.assert_close(turned[:, :6], expected, **TOLERANCE)
    assert torch.equal(turned[:, 6], projected[:, 6])


@pytest.mark.parametrize("case", named_cases(), ids=lambda case: case.name)
def test_attention_equals_the_reference(kernels: ctypes.CDLL, case: Case) -> None:
    if reason := NativeAttention.obstacle(case.spec.head_dim):
        pytest.skip(f"native attention {reason}")
    paged = PagedRun(case, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(paged.attended_by(NativeAttention), paged.expected(), **TOLERANCE)


@pytest.mark.parametrize("case", named_cases()[3:6], ids=lambda case: case.name)
def test_a_cache_in_bfloat16_holds_keys_and_values_rounded(kernels: ctypes.CDLL, case: Case) -> None:
    paged = PagedRun(case, torch.device("cpu"), torch.float32)
    paged.all_keys[:, 0, 0] = 1 + 2.0**-8  # as near to one as to the next
    half = paged.attended_by(NativeAttention, cache_dtype=torch.bfloat16)
    paged.all_keys, paged.all_values = paged.all_keys.bfloat16().float(), paged.all_values.bfloat16().float()
    assert torch.equal(half, paged.attended_by(NativeAttention))


@pytest.mark.parametrize("width", [1, 16, 37, 9000])
def test_choices_equal_torchs(kernels: ctypes.CDLL, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, width) * torch.tensor([0.1, 1, 30, 1, 1, 1, 1])[:, None]
    x[3, width // 2 :] = x[3, : width - width // 2].max() + 1  # several as large, of which the first counts
    x[4, : width - 1] = -torch.inf
    x[5] = -torch.inf
    x[6] = 1e4
    assert torch.equal(ops.argmax(x), x.argmax(-1))
    torch.testing.assert_close(ops.log_sum_exp(x), x.logsumexp(-1), rtol=1e-6, atol=1e-6)


def test_threads_that_ask_at_once_each_get_their_own(kernels: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    layers = [ops.NativeLinear(torch.randn(512, 64), None) for _ in range(4)]
    xs = [torch.randn(8, 64) for _ in layers]
    alone = [layer(x) for layer, x in zip(layers, xs, strict=True)]
    same: list[bool] = []

    def work(number: int) -> None:
        same.extend(torch.equal(layers[number](xs[number]), alone[number]) for _ in range(200))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(layers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 200 * len(layers)
