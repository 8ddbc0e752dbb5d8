"""Products of few rows by our kernel, in Triton's interpreter where there is no GPU."""

import logging

import pytest
import torch
from torch import Tensor

skinny = pytest.importorskip("textgen_server.layers.skinny")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _nothing_is_captured_or_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(skinny, "_verdicts", {})


def random(*shape: int) -> Tensor:
    # Triton's interpreter multiplies the bits of bfloat16 as if they were whole numbers.
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, torch.float16)


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("rows", "size", "out"), [(1, 512, 64), (5, 1000, 56), (16, 40, 16)])
def test_it_is_the_product(rows: int, size: int, out: int, with_bias: bool) -> None:
    x, weight, bias = random(rows, size), random(out, size), random(out) if with_bias else None
    layer = skinny.SkinnyLinear(weight, bias)
    expected = x.float() @ weight.float().t() + (0 if bias is None else bias.float())
    torch.testing.assert_close(layer.multiplied(x).float(), expected, rtol=2e-3, atol=0.05)
    assert not layer.arrivals.any()  # ready for the next


@pytest.mark.parametrize(("ours", "theirs", "pays"), [(1.0, 2.0, True), (1.99, 2.0, False), (2.0, 1.0, False)])
def test_the_faster_one_is_chosen_once_for_a_shape(
    ours: float, theirs: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [ours, theirs]
    monkeypatch.setattr(skinny, "_seconds", lambda run, x: times.pop(0))
    layers = [skinny.SkinnyLinear(random(16, 40), None) for _ in range(2)]
    for layer in layers:
        taken: list[bool] = []
        monkeypatch.setattr(
            layer, "multiplied", lambda x, own=layer, taken=taken: taken.append(True) or own._by_cublas(x)
        )
        for rows in (3, 4):  # as good as the same
            layer(random(rows, 40))
        assert taken == [True, True] * pays


def test_a_kernel_that_fails_leaves_its_products_to_cublas(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: object, x: Tensor) -> float:
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(skinny, "_seconds", fail)
    x, layer = random(2, 40), skinny.SkinnyLinear(random(16, 40), None)
    with caplog.at_level(logging.WARNING):
        outs = [layer(x) for _ in range(2)]
    assert torch.equal(outs[0], outs[1])
    assert len(caplog.records) == 1
