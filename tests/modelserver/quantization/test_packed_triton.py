"""Layers that keep weights packed, in Triton's interpreter where there is no GPU, against the dequantized matrix."""

from pathlib import Path

import pytest
import torch
from compiled_kernels import compiled
from harness import logits, make_runner
from packed_cases import Awq, Gptq, rounded, save_packed
from safetensors.torch import save_file
from shapes import SHAPES
from torch import Tensor

from textgen_server.layers.linear import FullPrecision
from textgen_server.quantization import awq, gptq
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.keep_packed import KeepPacked, SideBySide
from textgen_server.quantization.unpacked import Unpacked
from textgen_server.runner import quantization
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part

grouped_linear = pytest.importorskip("textgen_server.quantization.grouped_linear")

# What is chosen on a GPU.
METHOD = KeepPacked(FullPrecision(), {Grouped: grouped_linear.grouped_layers})
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORMATS = [
    Gptq(2), Gptq(3, act_order=True), Gptq(4, 32, symmetric=False), Gptq(4, 32, act_order=True), Gptq(8, -1),
    Gptq(8, 16, act_order=True, symmetric=False), Awq(32),
]  # fmt: skip
# Of inputs, and of the outputs of three matrices: more than a tile, and no multiple of one.
SIZE, OUTS = 200, (72, 8, 56)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def checkpoint_of(how: Gptq | Awq, folder: Path, seeds: tuple[int, ...] = (0, 0, 0)) -> tuple[Unpacked, list[Tensor]]:
    """Three matrices "0", "1" and "2"; with act-order, those of other seeds have other groups."""
    values = [rounded(random(out, SIZE) * 0.05, how, seed) for out, seed in zip(OUTS, seeds, strict=True)]
    tensors = {name: own for index, value in enumerate(values) for name, own in how.tensors(str(index), value).items()}
    save_file(tensors, folder / "model.safetensors")
    method = gptq.Gptq if isinstance(how, Gptq) else awq.Awq
    return Unpacked(Checkpoint.open(folder), method.from_config(how.config, "")), [value.weight for value in values]


def layer(checkpoint: Unpacked, parts: list[Part], bias: Tensor | None = None, dtype: torch.dtype = torch.float32):
    return METHOD.linear(Loader(checkpoint, DEVICE, dtype), parts, None if bias is None else bias.to(DEVICE, dtype))


ALL = [Part(f"{index}.weight") for index in range(3)]


@pytest.mark.parametrize("rows", [1, 20, 40], ids=["decode", "few rows", "many rows"])
@pytest.mark.parametrize("how", FORMATS, ids=str)
def test_a_layer_is_the_product_with_the_dequantized_matrix(how: Gptq | Awq, rows: int, tmp_path: Path) -> None:
    checkpoint, weights = checkpoint_of(how, tmp_path)
    x, bias = random(rows, SIZE), random(sum(OUTS))
    out = layer(checkpoint, ALL, bias)(x.to(DEVICE))
    torch.testing.assert_close(out.cpu(), x @ torch.cat(weights).t() + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", FORMATS, ids=str)
def test_what_is_written_out_is_exactly_the_matrix(how: Gptq | Awq, tmp_path: Path) -> None:
    checkpoint, weights = checkpoint_of(how, tmp_path)
    only = layer(checkpoint, ALL)
    assert torch.equal(only.dequantized().cpu(), torch.cat(weights).t())


# Triton's interpreter multiplies the bits of bfloat16 as if they were whole numbers.
@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if torch.cuda.is_available() else [])], ids=str)
def test_a_layer_computes_in_the_models_type(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint, weights = checkpoint_of(Gptq(), tmp_path)
    x = random(3, SIZE).to(dtype)
    out = layer(checkpoint, ALL, dtype=dtype)(x.to(DEVICE)).cpu()
    expected = x.float() @ torch.cat(weights).to(dtype).float().t()
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("how", [Gptq(group_size=32), Gptq(3, act_order=True), Awq(32)], ids=str)
def test_shares_of_columns_and_rows_are_those_of_the_whole(how: Gptq | Awq, tmp_path: Path) -> None:
    checkpoint, (weight, *_) = checkpoint_of(how, tmp_path)
    x = random(2, SIZE)
    cuts = [(0, (0, 27)), (0, (27, 45)), (1, (0, 96)), (1, (96, 104)), (1, (13, 21))]
    for dim, (start, length) in cuts:
        share = layer(checkpoint, [Part("0.weight", dim, start, length)])
        own = x if dim == 0 else x[:, start : start + length]
        torch.testing.assert_close(
            share(own.to(DEVICE)).cpu(), own @ weight.narrow(dim, start, length).t(), rtol=1e-4, atol=1e-4
        )


def test_matrices_of_other_groups_are_kept_apart(tmp_path: Path) -> None:
    checkpoint, weights = checkpoint_of(Gptq(act_order=True), tmp_path, seeds=(0, 0, 1))
    apart = layer(checkpoint, ALL)
    x = random(2, SIZE)
    assert len(apart.layers) == 2
    torch.testing.assert_close(apart(x.to(DEVICE)).cpu(), x @ torch.cat(weights).t(), rtol=1e-4, atol=1e-4)


def test_a_share_that_begins_with_a_group_needs_no_order(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of(Gptq(group_size=32), tmp_path)
    for (start, length), in_order in {(96, 104): True, (13, 100): False, (0, 200): True, (32, 20): True}.items():
        only = layer(checkpoint, [Part("0.weight", 1, start, length)])
        assert (only.order is None) == in_order


@pytest.mark.parametrize(("how", "size", "tiles"), [
    (Gptq(group_size=128), 512, 1), (Gptq(group_size=256), 512, 2), (Gptq(group_size=-1), 400, 4),
    (Gptq(group_size=128, act_order=True), 512, 1), (Gptq(group_size=64), 512, 0), (Gptq(8, group_size=64), 256, 1),
], ids=str)  # fmt: skip
def test_groups_of_whole_tiles_are_scaled_by_tiles(how: Gptq, size: int, tiles: int) -> None:
    value = rounded(random(8, size) * 0.05, how)
    codes, zeros = value.codes.to(torch.uint8), value.zeros.to(torch.uint8)
    block = Grouped(codes, value.scales, zeros, value.groups, how.bits)
    layer = grouped_linear.GroupedLinear(block, DEVICE, torch.float32)
    assert layer.how["GROUP_TILES"] == tiles
    assert torch.equal(layer.dequantized().cpu(), value.weight.t())
    for rows in (1, 3):
        x = random(rows, size)
        torch.testing.assert_close(layer(x.to(DEVICE)).cpu(), x @ value.weight.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "held"), [(2, 2), (3, 4), (4, 4), (8, 8)])
def test_a_layer_holds_its_packed_weights(bits: int, held: int, tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of(Gptq(bits), tmp_path)
    only = layer(checkpoint, ALL)
    tile = 16 * 32 // held
    assert only.codes.nbytes * 8 == sum(OUTS) * held * -(-SIZE // tile) * tile


@pytest.mark.parametrize("how", [Gptq(act_order=True), Awq()], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_that_stays_packed_has_the_same_logits(
    family: str, how: Gptq | Awq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plain = save_packed(how, next(iter(SHAPES[family].values())), tmp_path)
    monkeypatch.setattr(quantization, "_as_stored", lambda checkpoint, device: METHOD)
    runner = make_runner(folder, device=DEVICE.type, dtype="float32")
    assert any(isinstance(module, grouped_linear.GroupedLinear) for module in runner.loaded.model.modules())
    expected = logits(make_runner(plain, device=DEVICE.type, dtype="float32"), [5, 9, 77])
    torch.testing.assert_close(logits(runner, [5, 9, 77]), expected, rtol=1e-3, atol=1e-3)


def test_what_is_not_packed_stays_plain(tmp_path: Path) -> None:
    how = Gptq()
    tensors = how.tensors("0", rounded(random(8, SIZE), how)) | {"1.weight": random(4, SIZE)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Unpacked(Checkpoint.open(tmp_path), gptq.Gptq.from_config(how.config, ""))
    assert not isinstance(layer(checkpoint, [Part("1.weight")]), SideBySide)


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    kernels = compiled(Path(__file__).with_name("compile_kernels.py"), tmp_path)
    assert kernels == {"multiply", "dequantize", "multiply_scaled", "dequantize_scaled", "round_rows"}
