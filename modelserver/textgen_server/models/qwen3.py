"""Qwen3 (Yang et al. 2025): Qwen2 with a norm on every head of queries and keys, in place of the biases."""

from torch import nn

from textgen_server.layers.build import Builder
from textgen_server.layers.norm import HeadNorm
from textgen_server.layers.partition import Heads
from textgen_server.models.config import ModelConfig
from textgen_server.models.llama import LlamaLayer
from textgen_server.models.qwen2 import Qwen2ForCausalLM


class NormedHeadsLayer(LlamaLayer):
    """Llama's, with q_norm and k_norm (Gemma 3 has them too)."""

    @classmethod
    def head_norm(cls, config: ModelConfig, build: Builder, heads: Heads, prefix: str) -> nn.Module | None:
        query, key = (cls.norm(config, build, f"{prefix}.{name}") for name in ("q_norm", "k_norm"))
        return HeadNorm(query, key, heads.q_count)


class Qwen3ForCausalLM(Qwen2ForCausalLM):
    layer = NormedHeadsLayer
