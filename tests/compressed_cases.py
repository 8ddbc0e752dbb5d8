"""Checkpoints that the compressed-tensors library writes, from random models that are rounded to the nearest value."""

from pathlib import Path

import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized
from shapes import LLAMA, Shape, make_model
from torch import Tensor, nn

GROUP = 32
# Sizes that groups divide, as the library wants it for activations.
SHAPE = Shape(LLAMA, {"hidden_size": 96, "intermediate_size": 160})
# What a code of one stands for where scales of activations are static: some of them are cut off.
INPUT_SCALES = {"float": 0.004, "int": 0.015}


def scheme(preset: str, targets: tuple[str, ...] = ("Linear",)) -> QuantizationScheme:
    """One of the library's presets, with groups and blocks of `GROUP`."""
    chosen = preset_name_to_scheme(preset, list(targets))
    for args in (chosen.weights, chosen.input_activations):
        if args is not None and args.group_size and args.group_size > 0:
            args.group_size = GROUP
        if args is not None and args.block_structure:
            args.block_structure = [GROUP, GROUP]
    return chosen


SCHEMES = {
    "W4A16": scheme("W4A16"),
    "W4A16, asymmetric": scheme("W4A16_ASYM"),
    "W4A16, by channel": QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=4, strategy="channel", symmetric=False)
    ),
    "W8A16": scheme("W8A16"),
    "W8A8": scheme("W8A8"),
    "W8A8, static": QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, strategy="tensor"),
        input_activations=QuantizationArgs(num_bits=8, strategy="tensor"),
    ),
    "FP8": scheme("FP8"),
    "FP8, dynamic": scheme("FP8_DYNAMIC"),
    "FP8, blocks": scheme("FP8_BLOCK"),
}
MIXED = [
    scheme("FP8_DYNAMIC", ("re:.*self_attn.*", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.gate_proj")),
    scheme("W4A16"),
]
IGNORED = ["lm_head", "re:.*layers.2.*down_proj", "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"]


def save_compressed(
    schemes: list[QuantizationScheme], folder: Path, shape: Shape = SHAPE, ignore: list[str] = IGNORED
) -> transformers.PreTrainedModel:
    """Write the checkpoint. The model that is returned computes what the library makes of it."""
    model = make_model(shape)
    groups = {f"group_{index}": own.model_copy(deep=True) for index, own in enumerate(schemes)}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=ignore))
    for module in model.modules():
        if is_module_quantized(module):
            observe(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return model


def observe(module: nn.Linear) -> None:
    """Scales and zeros from the smallest and largest weights that share them."""
    args: QuantizationArgs = module.quantization_scheme.weights
    values = shared(module.weight.data, args)
    scales, zeros = calculate_qparams(values.amin(-1), values.amax(-1), args)
    module.weight_scale.data.copy_(scales.view_as(module.weight_scale))
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zeros.view_as(module.weight_zero_point))
    if hasattr(module, "input_scale"):
        module.input_scale.data.fill_(INPUT_SCALES[args.type])


def shared(weight: Tensor, args: QuantizationArgs) -> Tensor:
    """[..., weights that share a scale]."""
    if args.strategy == "tensor":
        return weight.reshape(1, -1)
    if args.strategy == "block":
        rows, columns = args.block_structure
        return weight.unflatten(0, (-1, rows)).unflatten(-1, (-1, columns)).transpose(1, 2).flatten(2)
    return weight.unflatten(-1, (-1, args.group_size if args.strategy == "group" else weight.shape[1]))
