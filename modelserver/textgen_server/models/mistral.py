"""Mistral (Jiang et al. 2023): Llama with a sliding attention window."""

from textgen_server.models.config import ModelConfig, count
from textgen_server.models.llama import LlamaForCausalLM


class MistralForCausalLM(LlamaForCausalLM):
    @staticmethod
    def window(config: ModelConfig) -> int | None:
        """A token sees the last `sliding_window` tokens, itself included; null in config.json switches this off."""
        return None if config.raw.get("sliding_window") is None else count(config.raw, "sliding_window")
