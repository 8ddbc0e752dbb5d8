"""Gemma 3 (Kamath et al. 2025), its language model: norms on the heads in place of the soft caps, five layers of six
slide, and those turn with a rotary embedding of their own."""

from typing import ClassVar

from torch import Tensor

from textgen_server.attention.base import AttentionBatch
from textgen_server.layers.build import Builder
from textgen_server.layers.norm import Stream
from textgen_server.layers.rotary import Rotary
from textgen_server.models.base import LayerCache
from textgen_server.models.config import ModelConfig, count, number, section
from textgen_server.models.gemma2 import Gemma2ForCausalLM, Gemma2Layer
from textgen_server.models.qwen3 import NormedHeadsLayer


class Gemma3Layer(Gemma2Layer, NormedHeadsLayer):
    pass


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    layer = Gemma3Layer
    roots: ClassVar[tuple[str, ...]] = ("model.", "language_model.model.", "model.language_model.")

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__(config, build)
        parameters = section(config.raw, "rope_parameters")
        theta = number(config.raw, "rope_local_base_freq", 10000.0)
        local = config.rope_of(section(parameters, "sliding_attention"), theta)
        self.local_rotary = Rotary(local, build.loader.device, build.loader.dtype)
        self.slides = [window is not None for window in self.windows(config)]

    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """All but the last of every `sliding_window_pattern` layers slide."""
        pattern = count(config.raw, "sliding_window_pattern", 6)
        return config.windows(lambda layer: (layer + 1) % pattern != 0)

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        stream: Stream = (self.embed(tokens, positions), None)
        rotary, local = self.rotary.at(positions), self.local_rotary.at(positions)
        for layer, slides, cache in zip(self.layers, self.slides, caches, strict=True):
            stream = layer(stream, local if slides else rotary, batch, cache)
        return self.norm.after(stream)[1]
