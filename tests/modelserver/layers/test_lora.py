"""Adapters of all rows at once, in Triton's interpreter where there is no GPU, against one after the other."""

import pytest
import torch
from torch import Tensor, nn

from textgen_server.adapters.peft import LowRank
from textgen_server.layers import fused
from textgen_server.layers.lora import AdapterRows, LoraLinear

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of two layers; the third adapter is for the second alone.
RANKS = ({"one": 16, "two": 3}, {"one": 16, "three": 40})


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def test_rows_of_many_adapters_are_the_same_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = AdapterRows()
    layers = [LoraLinear(nn.Linear(70, 700, device=DEVICE), [("m", 0, None)], None, rows) for _ in RANKS]
    for layer, ranks in zip(layers, RANKS, strict=True):
        for name, rank in ranks.items():
            layer.add(name, LowRank(random(rank, 70), random(700, rank)))
    x = random(9, 70)
    places = {"three": [5], "one": [0, 7], "two": [2, 3, 8]}
    with torch.inference_mode():
        for without in ("", "two", "one"):  # an adapter may go, and the others stay where they are
            for layer in layers:
                layer.remove(without)
            rows.use([(name, torch.tensor(own, device=DEVICE)) for name, own in places.items()])
            monkeypatch.setattr(fused, "fit", lambda *tensors: False)
            expected = [layer(x) for layer in layers]
            monkeypatch.setattr(fused, "fit", lambda *tensors: True)
            for layer, wanted in zip(layers, expected, strict=True):
                torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-3)
                assert torch.equal(layer(x)[[1, 4, 6]], layer.inner(x)[[1, 4, 6]])
