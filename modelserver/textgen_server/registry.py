"""Model families, quantization methods and attention backends: name -> where its code is and what it can do.

Read by the server (to load), by the settings (CLI choices), by the operator (CRD enums) and by the parity tests
(their parameters). Imports nothing of the project, so that anyone may ask what exists without loading any of it.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        return _load(self.target)


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Family(Entry):
    """A model family.

    Attributes:
        model_types: values of `model_type` in config.json that this family serves.
        encoder_decoder: the prompt is encoded, and the output begins with a start token.
        fields: what the family's config.json calls a field, where that is not what Llama's calls it; "" where it has
            none, and what is there means nothing.
        defaults: what fields are where config.json lacks them, by Llama's names.
        restarts_long: keys and values are computed anew when a sequence outgrows LongRoPE's original length.
        mlp_ratio: `intermediate_size` where config.json lacks it, in units of `hidden_size`.
    """

    model_types: tuple[str, ...] = ()
    encoder_decoder: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    restarts_long: bool = False
    mlp_ratio: int = 0


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
    """A way to hold and apply the weights of linear layers. Its `target` quantizes a checkpoint in full precision as it
    loads (quantization.base.Quantization); "" where there are only checkpoints that are quantized already.

    Attributes:
        packing: reads such checkpoints, as "module:Class" of a quantization.unpacked.Packing, made by its
            `from_config`; "" where there are none.
        checkpoints: values of `quant_method` in the quantization_config of such checkpoints.
        extra: the optional dependency of this distribution that brings the library it needs.
        bits: what a number takes once it is quantized as it loads, with its share of scales; 0 where checkpoints say.
    """

    packing: str = ""
    checkpoints: tuple[str, ...] = ()
    extra: str = ""
    bits: float = 0

    @property
    def stored(self) -> bool:
        """Does the method need checkpoints that are quantized already?"""
        return not self.target

    def load_packing(self) -> Any:
        """As `load`, what reads checkpoints that are quantized already."""
        return _load(self.packing)


_GPT2_FIELDS = {
    "num_key_value_heads": "",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "rms_norm_eps": "layer_norm_epsilon",
}
_LAYER_NORM = {"rms_norm_eps": 1e-5}
_GEMMA = {"head_dim": 256, "tie_word_embeddings": True}

FAMILIES: Mapping[str, Family] = {
    "llama": Family("textgen_server.models.llama:LlamaForCausalLM", "Llama 1 to 3.x and its shape-alikes", ("llama",)),
    "mistral": Family("textgen_server.models.mistral:MistralForCausalLM", "Mistral 7B, zephyr-7b-beta", ("mistral",)),
    "mixtral": Family(
        "textgen_server.models.mixtral:MixtralForCausalLM",
        "Mixtral: Mistral with a mixture of experts",
        ("mixtral",),
        defaults={"rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen2": Family("textgen_server.models.qwen2:Qwen2ForCausalLM", "Qwen2, Qwen2.5", ("qwen2",)),
    "qwen3": Family(
        "textgen_server.models.qwen3:Qwen3ForCausalLM", "Qwen3, dense", ("qwen3",), defaults={"head_dim": 128}
    ),
    "qwen3-moe": Family(
        "textgen_server.models.qwen3_moe:Qwen3MoeForCausalLM",
        "Qwen3, mixture of experts",
        ("qwen3_moe",),
        fields={"num_local_experts": "num_experts"},
        defaults={"num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "gemma": Family("textgen_server.models.gemma:GemmaForCausalLM", "Gemma", ("gemma",), defaults=_GEMMA),
    "gemma2": Family(
        "textgen_server.models.gemma2:Gemma2ForCausalLM",
        "Gemma 2",
        ("gemma2",),
        defaults=_GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096},
    ),
    "gemma3": Family(
        "textgen_server.models.gemma3:Gemma3ForCausalLM",
        "Gemma 3, its language model",
        ("gemma3_text", "gemma3"),
        defaults=_GEMMA
        | {
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rope_theta": 1e6,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
    ),
    "phi3": Family(
        "textgen_server.models.phi3:Phi3ForCausalLM",
        "Phi-3, Phi-4",
        ("phi3",),
        restarts_long=True,
        defaults={"rms_norm_eps": 1e-5},
    ),
    "starcoder": Family(
        "textgen_server.models.gpt_bigcode:GPTBigCodeForCausalLM",
        "StarCoder, SantaCoder",
        ("gpt_bigcode",),
        fields=_GPT2_FIELDS,
        defaults=_LAYER_NORM | {"tie_word_embeddings": True, "max_position_embeddings": 1024},
        mlp_ratio=4,
    ),
    "falcon": Family(
        "textgen_server.models.falcon:FalconForCausalLM",
        "Falcon 7B, 40B, 180B, RW",
        ("falcon", "RefinedWebModel", "RefinedWeb"),
        fields={
            "num_key_value_heads": "",
            "hidden_size": "n_embed",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "num_kv_heads": "n_head_kv",
            "intermediate_size": "ffn_hidden_size",
            "rms_norm_eps": "layer_norm_epsilon",
        },
        defaults=_LAYER_NORM | {"tie_word_embeddings": True, "max_position_embeddings": 2048},
        mlp_ratio=4,
    ),
    "bloom": Family(
        "textgen_server.models.bloom:BloomForCausalLM",
        "BLOOM, BLOOMZ",
        ("bloom",),
        fields={
            "num_key_value_heads": "",
            "hidden_size": "n_embed",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "",
            "max_position_embeddings": "seq_length",
            "rms_norm_eps": "layer_norm_epsilon",
        },
        defaults=_LAYER_NORM | {"tie_word_embeddings": True, "max_position_embeddings": 2048},
        mlp_ratio=4,
    ),
    "gpt-neox": Family(
        "textgen_server.models.gpt_neox:GPTNeoXForCausalLM",
        "GPT-NeoX, Pythia",
        ("gpt_neox",),
        fields={
            "num_key_value_heads": "",
            "rms_norm_eps": "layer_norm_eps",
            "rope_theta": "rotary_emb_base",
            "partial_rotary_factor": "rotary_pct",
        },
        defaults=_LAYER_NORM | {"partial_rotary_factor": 0.25},
    ),
    "gpt2": Family(
        "textgen_server.models.gpt2:GPT2LMHeadModel",
        "GPT-2",
        ("gpt2",),
        fields=_GPT2_FIELDS,
        defaults=_LAYER_NORM | {"tie_word_embeddings": True, "max_position_embeddings": 1024},
        mlp_ratio=4,
    ),
    "starcoder2": Family(
        "textgen_server.models.starcoder2:Starcoder2ForCausalLM",
        "StarCoder2",
        ("starcoder2",),
        fields={"rms_norm_eps": "norm_epsilon"},
        defaults=_LAYER_NORM | {"tie_word_embeddings": True},
    ),
    "t5": Family(
        "textgen_server.models.t5:T5ForConditionalGeneration",
        "T5, Flan-T5, mT0: encoder and decoder",
        ("t5", "mt5"),
        encoder_decoder=True,
        fields={
            "hidden_size": "d_model",
            "intermediate_size": "d_ff",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "head_dim": "d_kv",
            "rms_norm_eps": "layer_norm_epsilon",
        },
    ),
}

FOREIGN = Family(
    "textgen_server.models.foreign:ForeignForCausalLM",
    "any other causal model, by the code of transformers, on one shard",
    mlp_ratio=4,
)
"""Serves the model types that no other family does."""

QUANTIZATION_METHODS: Mapping[str, QuantizationMethod] = {
    "bitsandbytes": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:Int8", "LLM.int8 as the weights load", extra="bitsandbytes", bits=8
    ),
    "bitsandbytes-nf4": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:NormalFloat4",
        "4-bit NormalFloat, as they load",
        extra="bitsandbytes",
        bits=4.5,
    ),
    "bitsandbytes-fp4": QuantizationMethod(
        "textgen_server.quantization.bitsandbytes:Float4", "4-bit float, as they load", extra="bitsandbytes", bits=4.5
    ),
    "gptq": QuantizationMethod(
        "",
        "checkpoints of AutoGPTQ and GPTQModel",
        packing="textgen_server.quantization.gptq:Gptq",
        checkpoints=("gptq",),
    ),
    "awq": QuantizationMethod(
        "", "checkpoints of AutoAWQ", packing="textgen_server.quantization.awq:Awq", checkpoints=("awq",)
    ),
    "fp8": QuantizationMethod(
        "textgen_server.quantization.as_it_loads:Float8",
        "8-bit floats, activations too, as the weights load or in the checkpoint",
        packing="textgen_server.quantization.float8:Float8Checkpoint",
        checkpoints=("fp8", "fbgemm_fp8"),
        bits=8,
    ),
    "compressed-tensors": QuantizationMethod(
        "",
        "checkpoints of LLM Compressor: W8A8 in int8 and float8, W4A16, W8A16",
        packing="textgen_server.quantization.compressed_tensors:CompressedTensors",
        checkpoints=("compressed-tensors",),
    ),
    "marlin": QuantizationMethod(
        "",
        "4-bit checkpoints in the layout of Marlin's kernel",
        packing="textgen_server.quantization.marlin:Marlin",
        checkpoints=("marlin",),
    ),
    "int8": QuantizationMethod(
        "textgen_server.quantization.as_it_loads:Int8",
        "8-bit whole numbers, activations too (W8A8), as the weights load: the fastest on CPUs",
        bits=8,
    ),
    "eetq": QuantizationMethod(
        "textgen_server.quantization.as_it_loads:Int8Weights", "8-bit weights, as they load", bits=8
    ),
}

REFUSED_METHODS: Mapping[str, str] = {
    "exl2": "checkpoints of ExLlamaV2, which cannot be read; serve one in gptq or awq",
}
"""What TGI calls other methods, and what to do instead."""

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
    "native": AttentionBackend(
        "textgen_server.attention.native:NativeAttention",
        "our C++ kernels for the CPU, over blocks where they lie, in float32; the KV cache may be in bfloat16",
        devices=("cpu",),
    ),
    "cpu": AttentionBackend(
        "textgen_server.attention.cpu:CpuAttention", "torch operators over gathered blocks", devices=("cpu",)
    ),
    "reference": AttentionBackend(
        "textgen_server.attention.reference:ReferenceAttention",
        "slow and plain, to compare with",
        devices=("cpu", "cuda"),
    ),
}


def family_of(model_type: str) -> Family:
    """The family that serves config.json's `model_type`."""
    return next((family for family in FAMILIES.values() if model_type in family.model_types), FOREIGN)
