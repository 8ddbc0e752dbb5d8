"""Linear layers and models for the quantization tests, and the weights that a quantized layer stands for.

Used by tests/modelserver/quantization and tests/gpu.
"""

from collections.abc import Iterator
from pathlib import Path

import bitsandbytes as bnb
import torch
import transformers
from safetensors.torch import save_file
from shapes import Shape, make_model
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part

# Those that quantize a checkpoint as it loads.
METHODS = [name for name, method in QUANTIZATION_METHODS.items() if not method.stored]

# (out features of the parts, in features, rows of x): a usual shape, one row, and one where nothing divides.
SHAPES_OF_LAYERS = [([192, 64, 64], 192, 33), ([576], 1536, 1), ([7, 20], 45, 5)]

# Largest norm of the difference from the dequantized reference, over the norm of the reference. LLM.int8 rounds the
# activations too, and so do fp8 and int8; the 4-bit methods may compute in bfloat16. What quantization itself changes
# is 0.01 for 8 bits, 0.03 for fp8 and 0.09 for 4 bits.
TOLERANCE = {
    "bitsandbytes": 0.02,
    "bitsandbytes-nf4": 0.01,
    "bitsandbytes-fp4": 0.01,
    "fp8": 0.04,
    "int8": 0.02,
    "eetq": 0.005,
}


def make_layer(
    method: str, weights: list[Tensor], bias: Tensor | None, folder: Path, parts: list[Part] | None = None
) -> nn.Module:
    """The layer that `method` builds from a checkpoint with the given matrices [out, in] (named "0", "1", ...), on the
    device and in the type that they have."""
    save_file({str(index): weight.cpu() for index, weight in enumerate(weights)}, folder / "model.safetensors")
    loader = Loader(Checkpoint.open(folder), weights[0].device, weights[0].dtype)
    parts = parts or [Part(str(index)) for index in range(len(weights))]
    layer: nn.Module = QUANTIZATION_METHODS[method].load()().linear(loader, parts, bias)
    return layer


def dequantized(method: str, weight: Tensor) -> Tensor:
    """What the quantized form of `weight` [out, in] stands for, float32, by bitsandbytes' and torch's own functions."""
    if method == "fp8":
        return float8(weight.float())
    if method in ("int8", "eetq"):
        scales = weight.float().abs().amax(1) / 127
        zeros = torch.zeros_like(scales, dtype=torch.int)
        return torch.fake_quantize_per_channel_affine(weight.float(), scales.clamp(min=1e-30), zeros, 0, -127, 127)
    if method == "bitsandbytes":
        rounded, scales, _ = bnb.functional.int8_vectorwise_quant(weight.half())
        return bnb.functional.int8_vectorwise_dequant(rounded, scales)
    columns = weight.shape[1]
    padded = pad(weight, (0, -columns % 64))
    codes, state = bnb.functional.quantize_4bit(padded, blocksize=64, quant_type=method.removeprefix("bitsandbytes-"))
    return bnb.functional.dequantize_4bit(codes, state)[:, :columns].float()


def float8(rows: Tensor) -> Tensor:
    """Rows rounded to what float8_e4m3fn can hold, the largest value of each being its largest number."""
    scales = rows.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448
    return (rows / scales).to(torch.float8_e4m3fn).float() * scales


def distance(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to that of `expected`."""
    return ((actual.float() - expected.float()).norm() / expected.float().norm()).item()


def random_matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def save_twins(method: str, shape: Shape, folder: Path) -> tuple[Path, Path]:
    """Checkpoints of a random model, and of the same with the values that `method` can hold, both in float32."""
    model = make_model(shape)
    model.save_pretrained(folder / "original")
    for weight in quantizable(model):
        weight.copy_(dequantized(method, weight.contiguous()))
    model.save_pretrained(folder / "dequantized")
    return folder / "original", folder / "dequantized"


def quantizable(model: transformers.PreTrainedModel) -> Iterator[Tensor]:
    """The matrices [out, in] of all linear layers but the output head, as views that can be written to."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in ("lm_head", "embed_out"):
            yield module.weight.data
        elif isinstance(module, Conv1D):
            yield module.weight.data.t()
        else:  # experts, one matrix behind the other
            for matrices in (own.data for own in module.parameters(recurse=False) if own.dim() == 3):
                yield from matrices
