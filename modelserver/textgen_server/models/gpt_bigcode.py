"""StarCoder and SantaCoder (Li et al. 2023): GPT-2 with one key and value for all heads."""

from dataclasses import replace

from textgen_server.layers.build import Builder, Piece
from textgen_server.layers.partition import Heads
from textgen_server.layers.qkv import grouped
from textgen_server.models.config import ModelConfig, flag
from textgen_server.models.gpt2 import GPT2Layer, GPT2LMHeadModel


class GPTBigCodeLayer(GPT2Layer):
    default_activation = "gelu_pytorch_tanh"

    @classmethod
    def qkv(cls, config: ModelConfig, heads: Heads, name: str) -> list[Piece]:
        return grouped(name, heads, config.head_dim, config.num_heads, config.num_kv_heads)


class GPTBigCodeForCausalLM(GPT2LMHeadModel):
    layer = GPTBigCodeLayer
    transposed = False

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        """With `multi_query` off every head has its own key and value."""
        multi_query = flag(config.raw, "multi_query", True)
        super().__init__(replace(config, num_kv_heads=1 if multi_query else config.num_heads), build)
