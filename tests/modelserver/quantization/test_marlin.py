"""Checkpoints in Marlin's layout, packed here through the table of places that the kernel's authors publish."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from harness import logits, make_runner
from packed_cases import Gptq, Rounded, packed, rounded, save_packed
from safetensors.torch import save_file
from shapes import LLAMA, Shape
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.marlin import Marlin
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.weights.checkpoint import Checkpoint

OUT, SIZE = 192, 64


def places() -> list[int]:
    """For each code of four 16 by 16 tiles, side by side, the place in them (row by row) that it comes from."""
    found = []
    for lane in range(32):
        for tile in range(4):
            eight = [
                256 * tile + 16 * (2 * (lane % 4) + row) + lane // 4 + column
                for column in (0, 8)
                for row in (0, 1, 8, 9)
            ]
            found += [eight[index] for index in (0, 2, 4, 6, 1, 3, 5, 7)]
    return found


@dataclass(frozen=True)
class Layout(Gptq):
    """Rounds as GPTQ does, and packs in Marlin's layout."""

    fields: tuple[tuple[str, object], ...] = (("quant_method", "marlin"),)

    @property
    def config(self) -> dict:
        return {"group_size": self.group_size, **dict(self.fields)}

    def tensors(self, prefix: str, rounded: Rounded) -> dict[str, Tensor]:
        size, out = rounded.codes.shape
        tiles = rounded.codes.reshape(size // 16, 16, out // 16, 16).transpose(1, 2).reshape(-1, 1024)[:, places()]
        words = packed(tiles.reshape(size // 16, out * 16).t(), 4).t()
        if len(rounded.scales) > 1:
            order = [i + 8 * j for i in range(8) for j in range(8)]
        else:
            order = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
        scales = rounded.scales.reshape(-1, len(order))[:, order].reshape(rounded.scales.shape)
        return {f"{prefix}.B": words.contiguous(), f"{prefix}.s": scales.contiguous()}


@pytest.mark.parametrize("group_size", [16, -1])
def test_a_matrix_and_any_slice_of_it_are_exactly_what_was_packed(group_size: int, tmp_path: Path) -> None:
    weight = torch.randn(OUT, SIZE, generator=torch.Generator().manual_seed(3))
    how = Layout(group_size=group_size)
    values = rounded(weight, how)
    save_file(how.tensors("x", values), tmp_path / "model.safetensors")
    checkpoint = Unpacked(Checkpoint.open(tmp_path), Marlin.from_config(how.config, ""))
    assert checkpoint.shape("x.weight") == (OUT, SIZE)
    assert torch.equal(checkpoint.tensor("x.weight"), values.weight)
    for dim, start, length in [(0, 0, 64), (0, 70, 100), (1, 16, 16), (1, 5, 50), (0, 63, 2)]:
        cut = checkpoint.slice("x.weight", dim, start, length)
        assert torch.equal(cut, values.weight.narrow(dim, start, length))


@pytest.mark.parametrize(
    "fields",
    [(("quant_method", "marlin"),), (("quant_method", "gptq"), ("bits", 4), ("is_marlin_format", True))],
    ids=["marlin", "AutoGPTQ"],
)
def test_logits_are_those_of_the_model_with_the_dequantized_weights(fields: tuple, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128}
    folder, plain = save_packed(Layout(fields=fields), Shape(LLAMA, sizes), tmp_path)
    runner = make_runner(folder, quantize="marlin")
    assert runner.loaded.quantize == "marlin"
    tokens = [5, 9, 77, 3]
    torch.testing.assert_close(logits(runner, tokens), logits(make_runner(plain), tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bits": 8}, "bits of Marlin must be 4, not 8"),
        ({"group_size": 0}, "group_size must be -1 or above 0"),
        ({"desc_act": True}, "desc_act and zeros cannot be in Marlin's layout"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(change: dict, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=f"^config.json: {complaint}"):
        Marlin.from_config({"group_size": 128} | change, "config.json")
