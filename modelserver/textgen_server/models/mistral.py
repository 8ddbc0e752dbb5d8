"""Mistral (Jiang et al. 2023): Llama with a sliding attention window."""

from textgen_server.models.config import ModelConfig
from textgen_server.models.llama import LlamaForCausalLM


class MistralForCausalLM(LlamaForCausalLM):
    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """Every layer slides."""
        return config.windows(lambda layer: True)
