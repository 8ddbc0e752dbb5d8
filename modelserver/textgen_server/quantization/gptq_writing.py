"""Writing what quantization.gptq reads: tensors of rounded matrices, and the words about them. Used by quantize.py."""

from typing import Any

from torch import Tensor

from textgen_server.quantization.gptq_rounding import Rounding
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.packing import pack


def tensors_of(prefix: str, block: Grouped) -> dict[str, Tensor]:
    """The tensors of a matrix whose name begins with `prefix`, on the CPU, in the format "gptq". Its zeros are above 0,
    as `Rounding.grid` makes them, so that all programs read them alike."""
    tensors = {
        "qweight": pack(block.codes, block.bits),
        "qzeros": pack((block.zeros - 1).t(), block.bits).t(),
        "scales": block.scales,
        "g_idx": block.groups.int(),
    }
    return {f"{prefix}.{name}": tensor.contiguous().cpu() for name, tensor in tensors.items()}


def quantization_config(how: Rounding, version: str) -> dict[str, Any]:
    """The section of config.json, with the fields that AutoGPTQ, GPTQModel and transformers look for."""
    return {
        "quant_method": "gptq",
        "bits": how.bits,
        "group_size": how.group_size,
        "desc_act": how.act_order,
        "static_groups": False,
        "sym": how.symmetric,
        "damp_percent": how.damping,
        "true_sequential": False,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "meta": {"quantizer": [f"textgen:{version}"]},
    }
