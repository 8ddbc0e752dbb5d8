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
        num_experts = count(config.raw, "num_local_experts")
        return mixture(config, build, prefix, num_experts, config.intermediate_size, ("w1", "w3", "w2"))


class MixtralForCausalLM(MistralForCausalLM):
    layer = MixtralLayer


def mixture(
    config: ModelConfig,
    build: Builder,
    prefix: str,
    num_experts: int,
    intermediate_size: int,
    names: tuple[str, str, str],
    normalized: bool = True,
) -> SparseMoE:
    """`num_experts` gated MLPs of `intermediate_size` whose matrices have `names`, and their router, of which
    `num_experts_per_tok` serve a token.

    Raises:
        CheckpointError: config.json wants more of them for a token than there are.
    """
    top_k = count(config.raw, "num_experts_per_tok")
    if top_k > num_experts:
        raise CheckpointError(f"config.json: num_experts_per_tok ({top_k}) must not exceed the experts ({num_experts})")
    activation = config.activation("hidden_act", "silu")
    experts: list[nn.Module] = [
        GatedMLP(build, f"{prefix}.experts.{index}", intermediate_size, activation, names, summed=False)
        for index in range(num_experts)
    ]
    return SparseMoE(build, f"{prefix}.gate.weight", experts, top_k, normalized)
