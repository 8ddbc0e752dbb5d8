"""Gemma 2 (Riviere et al. 2024): norms on both sides of attention and MLP, soft caps, every other layer slides."""

from dataclasses import replace

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.build import Builder
from textgen_server.layers.norm import Stream
from textgen_server.layers.partition import Heads
from textgen_server.models.base import LayerCache
from textgen_server.models.config import ModelConfig, number
from textgen_server.models.gemma import GemmaForCausalLM, GemmaLayer


class Gemma2Layer(GemmaLayer):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, window: int | None) -> None:
        nn.Module.__init__(self)
        self.input_norm = self.norm(config, build, f"{prefix}.input_layernorm")
        self.attention = self.make_attention(config, build, f"{prefix}.self_attn", window)
        self.attended_norm = self.norm(config, build, f"{prefix}.post_attention_layernorm")
        self.mlp_norm = self.norm(config, build, f"{prefix}.pre_feedforward_layernorm")
        self.mlp = self.make_mlp(config, build, f"{prefix}.mlp")
        self.output_norm = self.norm(config, build, f"{prefix}.post_feedforward_layernorm")

    def forward(
        self, stream: Stream, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, cache: LayerCache
    ) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended = self.attended_norm(self.attention(normed, rotary, batch, cache.keys, cache.values))
        x, normed = self.mlp_norm.after((x, attended))
        return x, self.output_norm(self.mlp(normed))

    @classmethod
    def attention_spec(cls, config: ModelConfig, heads: Heads, window: int | None) -> AttentionSpec:
        return replace(
            super().attention_spec(config, heads, window),
            scale=number(config.raw, "query_pre_attn_scalar", 256) ** -0.5,
            softcap=softcap(config, "attn_logit_softcapping"),
        )


def softcap(config: ModelConfig, field: str) -> float | None:
    """The bound that logits are bent to stay within, or None where the field is null."""
    return None if config.raw.get(field) is None else number(config.raw, field, 1)


class Gemma2ForCausalLM(GemmaForCausalLM):
    layer = Gemma2Layer

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__(config, build)
        self.softcap = softcap(config, "final_logit_softcapping")

    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """The first layer slides, the second does not, and so on."""
        return config.windows(lambda layer: layer % 2 == 0)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)
