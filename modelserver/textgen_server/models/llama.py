"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023).

Families that differ from it in some part override that part.
"""

from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.build import Builder, Piece
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.norm import Norm, RMSNorm, Stream
from textgen_server.layers.partition import Heads
from textgen_server.layers.qkv import separate
from textgen_server.layers.rotary import Rotary
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig
from textgen_server.models.decoder import Decoder
from textgen_server.models.native_layers import NativeLayers


class LlamaLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, window: int | None) -> None:
        super().__init__()
        self.input_norm = self.norm(config, build, f"{prefix}.input_layernorm")
        self.attention = self.make_attention(config, build, f"{prefix}.self_attn", window)
        self.mlp_norm = self.norm(config, build, f"{prefix}.post_attention_layernorm")
        self.mlp = self.make_mlp(config, build, f"{prefix}.mlp")

    def forward(
        self, stream: Stream, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, cache: LayerCache
    ) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended = self.attention(normed, rotary, batch, cache.keys, cache.values)
        x, normed = self.mlp_norm.after((x, attended))
        return x, self.mlp(normed)

    @classmethod
    def norm(cls, config: ModelConfig, build: Builder, prefix: str) -> Norm:
        return RMSNorm(build.vector(f"{prefix}.weight"), config.norm_eps)

    @classmethod
    def make_attention(cls, config: ModelConfig, build: Builder, prefix: str, window: int | None) -> nn.Module:
        heads = build.heads(config.num_heads, config.num_kv_heads)
        return SelfAttention(
            build,
            heads,
            cls.attention_spec(config, heads, window),
            cls.qkv(config, heads, prefix),
            f"{prefix}.o_proj",
            config.rope.dim,
            cls.head_norm(config, build, heads, prefix),
        )

    @classmethod
    def attention_spec(cls, config: ModelConfig, heads: Heads, window: int | None) -> AttentionSpec:
        return AttentionSpec(heads.q_count, heads.kv_count, config.head_dim, config.head_dim**-0.5, window)

    @classmethod
    def qkv(cls, config: ModelConfig, heads: Heads, prefix: str) -> list[Piece]:
        return separate(prefix, heads, config.head_dim)

    @classmethod
    def head_norm(cls, config: ModelConfig, build: Builder, heads: Heads, prefix: str) -> nn.Module | None:
        return None

    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        return GatedMLP(build, prefix, config.intermediate_size, config.activation("hidden_act", "silu"))


class LlamaForCausalLM(Decoder):
    """The whole decoder."""

    layer: ClassVar[type[LlamaLayer]] = LlamaLayer
    roots: ClassVar[tuple[str, ...]] = ("model.",)
    """What may stand before the names of the decoder's tensors."""

    rotary: Rotary

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        root = build.root("embed_tokens.weight", self.roots)
        heads = build.heads(config.num_heads, config.num_kv_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding(f"{root}embed_tokens.weight", config.vocab_size)
        self.rotary = Rotary(config.rope, build.loader.device, build.loader.dtype)
        self.layers = nn.ModuleList(
            self.layer(config, build, f"{root}layers.{index}", window)
            for index, window in enumerate(self.windows(config))
        )
        self.norm = self.layer.norm(config, build, f"{root}norm")
        head = f"{root}embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
        self.head = build.output_head(head, config.vocab_size)

    @cached_property
    def _native(self) -> NativeLayers | None:
        plain = all(type(layer).forward is LlamaLayer.forward for layer in self.layers)
        return NativeLayers.of(self.layers) if plain else None

    def through(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, batch: AttentionBatch, caches: list[LayerCache]
    ) -> Stream:
        """See Decoder."""
        if self._native is None or rotary is None:
            return super().through(x, rotary, batch, caches)
        return self._native.run(x, rotary, batch, caches)

    @classmethod
    def windows(cls, config: ModelConfig) -> list[int | None]:
        """How far back a token sees in each layer: everywhere."""
        return [None] * config.num_layers
