"""Model families, quantization methods and attention backends: name -> where its code is and what it can do.

Read by the server (to load), by the settings (CLI choices), by the operator (CRD enums) and by the parity tests
(their parameters). Imports nothing of the project, so that anyone may ask what exists without loading any of it.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One thing that can be chosen by name.

    Attributes:
        target: where the code is, as "module:Attribute".
        summary: one line for help texts and documentation.
    """

    target: str
    summary: str

    def load(self) -> Any:
        """Import the module and return the attribute. Raises ImportError when an optional library is absent."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Family(Entry):
    """A model family.

    Attributes:
        model_types: values of `model_type` in config.json that this family serves.
    """

    model_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttentionBackend(Entry):
    """A paged-attention implementation.

    Attributes:
        devices: device types it runs on ("cpu", "cuda"); the first backend that fits the device and whose
            `requires` can be imported is the automatic choice.
        requires: top-level modules that must be importable.
    """

    devices: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantizationMethod(Entry):
    """A way to hold and apply the weights of linear layers.

    Attributes:
        extra: the optional dependency of this distribution that brings the library it needs.
    """

    extra: str = ""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("textgen_server.models.llama:LlamaForCausalLM", "Llama 1 to 3.x and its shape-alikes", ("llama",)),
    "mistral": Family("textgen_server.models.mistral:MistralForCausalLM", "Mistral 7B, zephyr-7b-beta", ("mistral",)),
}

QUANTIZATION_METHODS: Mapping[str, QuantizationMethod] = {
    "bitsandbytes": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:Int8", "LLM.int8 as the weights load", extra="bitsandbytes"
    ),
    "bitsandbytes-nf4": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:NormalFloat4", "4-bit NormalFloat, as they load", extra="bitsandbytes"
    ),
    "bitsandbytes-fp4": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:Float4", "4-bit float, as they load", extra="bitsandbytes"
    ),
}

ATTENTION_BACKENDS: Mapping[str, AttentionBackend] = {
    "flash": AttentionBackend(
        "textgen_server.attention.flash:FlashAttention",
        "flash-attn's paged kernels, when that library is installed",
        devices=("cuda",),
        requires=("flash_attn",),
    ),
    "triton": AttentionBackend(
        "textgen_server.attention.triton:TritonAttention",
        "our Triton kernels: split-KV decode, chunked prefill",
        devices=("cuda",),
        requires=("triton",),
    ),
    "cpu": AttentionBackend(
        "textgen_server.attention.cpu:CpuAttention", "torch operators over gathered blocks", devices=("cpu",)
    ),
}


def family_of(model_type: str) -> Family | None:
    """The family that serves config.json's `model_type`, or None when there is none."""
    return next((family for family in FAMILIES.values() if model_type in family.model_types), None)
