"""Qwen3 with a mixture of experts (Yang et al. 2025): Qwen3, in whose layers many small experts stand for the MLP.

The layers that keep a plain MLP are found in the checkpoint: they have no router.
"""

from torch import nn

from textgen_server.layers.build import Builder
from textgen_server.models.config import ModelConfig, count, flag
from textgen_server.models.mistral import MistralForCausalLM
from textgen_server.models.mixtral import mixture
from textgen_server.models.qwen3 import NormedHeadsLayer


class Qwen3MoeLayer(NormedHeadsLayer):
    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        if f"{prefix}.gate.weight" not in build.loader:
            return super().make_mlp(config, build, prefix)
        return mixture(
            config,
            build,
            prefix,
            num_experts=count(config.raw, "num_local_experts"),
            intermediate_size=count(config.raw, "moe_intermediate_size"),
            names=("gate_proj", "up_proj", "down_proj"),
            normalized=flag(config.raw, "norm_topk_prob", False),
        )


class Qwen3MoeForCausalLM(MistralForCausalLM):
    layer = Qwen3MoeLayer

    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """Every layer slides, where `use_sliding_window` is on."""
        slides = flag(config.raw, "use_sliding_window", False)
        return super().windows(config) if slides else [None] * config.num_layers
