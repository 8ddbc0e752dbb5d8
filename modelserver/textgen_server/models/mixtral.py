"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in place of the MLP."""

from torch import nn

from textgen_server.errors import CheckpointError
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.moe import SparseMoE
from textgen_server.models.config import ModelConfig, count
from textgen_server.models.llama import LlamaLayer
from textgen_server.models.mistral import MistralForCausalLM


class MixtralLayer(LlamaLayer):
    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        prefix = prefix.removesuffix("mlp") + "block_sparse_moe"
        num_experts, top_k = count(config.raw, "num_local_experts"), count(config.raw, "num_experts_per_tok")
        if top_k > num_experts:
            raise CheckpointError(
                f"config.json: num_experts_per_tok ({top_k}) must not exceed num_local_experts ({num_experts})"
            )
        activation, names = config.activation("hidden_act", "silu"), ("w1", "w3", "w2")
        experts: list[nn.Module] = [
            GatedMLP(build, f"{prefix}.experts.{index}", config.intermediate_size, activation, names, summed=False)
            for index in range(num_experts)
        ]
        return SparseMoE(build, f"{prefix}.gate.weight", experts, top_k)


class MixtralForCausalLM(MistralForCausalLM):
    layer = MixtralLayer
