"""Phi-3 and Phi-4 (Abdin et al. 2024): Llama with fused matrices, and LongRoPE in its variants for long contexts."""

from torch import nn

from textgen_server.layers.build import Builder, Piece
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.partition import Heads
from textgen_server.layers.qkv import stacked
from textgen_server.models.config import ModelConfig
from textgen_server.models.llama import LlamaLayer
from textgen_server.models.mistral import MistralForCausalLM


class Phi3Layer(LlamaLayer):
    @classmethod
    def qkv(cls, config: ModelConfig, heads: Heads, prefix: str) -> list[Piece]:
        return stacked(f"{prefix}.qkv_proj", heads, config.head_dim, config.num_heads, config.num_kv_heads)

    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        names = ("gate_up_proj", "gate_up_proj", "down_proj")
        return GatedMLP(build, prefix, config.intermediate_size, config.activation("hidden_act", "silu"), names)


class Phi3ForCausalLM(MistralForCausalLM):
    layer = Phi3Layer
