"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on query, key and value, and windows in its upper layers.

The biases are found in the checkpoint; no field of config.json tells of them.
"""

from textgen_server.models.config import ModelConfig, count, flag
from textgen_server.models.llama import LlamaForCausalLM


class Qwen2ForCausalLM(LlamaForCausalLM):
    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """The layers from `max_window_layers` on slide, where `use_sliding_window` is on."""
        if not flag(config.raw, "use_sliding_window", False):
            return [None] * config.num_layers
        first = count(config.raw, "max_window_layers", 28, least=0)
        return config.windows(lambda layer: layer >= first)
