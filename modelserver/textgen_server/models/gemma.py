"""Gemma (Mesnard et al. 2024): Llama with GELU gates, norms by offsets from one, and scaled embeddings."""

import torch
from torch import Tensor, nn

from textgen_server.layers.activation import activation
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.norm import Norm, OffsetRMSNorm
from textgen_server.models.config import ModelConfig
from textgen_server.models.llama import LlamaForCausalLM, LlamaLayer


class GemmaLayer(LlamaLayer):
    @classmethod
    def norm(cls, config: ModelConfig, build: Builder, prefix: str) -> Norm:
        return OffsetRMSNorm(build.vector(f"{prefix}.weight"), config.norm_eps)

    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        """`hidden_activation` goes before the first releases' `hidden_act`, whose "gelu" means its approximation."""
        field = "hidden_activation" if config.raw.get("hidden_activation") else "hidden_act"
        name = config.raw.get(field, "gelu_pytorch_tanh")
        if (field, name) == ("hidden_act", "gelu"):
            name = "gelu_pytorch_tanh"
        return GatedMLP(build, prefix, config.intermediate_size, activation(name, field))


class GemmaForCausalLM(LlamaForCausalLM):
    layer = GemmaLayer

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        config.refuse("use_bidirectional_attention", False)
        super().__init__(config, build)
        # As trained: rounded to the type of the numbers.
        self.scale = torch.tensor(config.hidden_size**0.5, dtype=build.loader.dtype).item()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return super().embed(tokens, positions) * self.scale
