"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023)."""

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.norm import RMSNorm
from textgen_server.layers.rotary import Rotary, rotate
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig


class LlamaAttention(nn.Module):
    """Query, key and value in one matrix; the heads of this rank only."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, window: int | None) -> None:
        super().__init__()
        self.heads = heads = build.heads(config.num_heads, config.num_kv_heads)
        self.head_dim = dim = config.head_dim
        self.qkv = build.columns(
            [
                (f"{prefix}.q_proj", heads.q_start * dim, heads.q_count * dim),
                (f"{prefix}.k_proj", heads.kv_start * dim, heads.kv_count * dim),
                (f"{prefix}.v_proj", heads.kv_start * dim, heads.kv_count * dim),
            ]
        )
        self.out = build.rows(f"{prefix}.o_proj", heads.q_start * dim, heads.q_count * dim)
        self.attention = build.attention(AttentionSpec(heads.q_count, heads.kv_count, dim, dim**-0.5, window))

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, cache: LayerCache) -> Tensor:
        heads, dim = self.heads, self.head_dim
        qkv = self.qkv(x).view(len(x), heads.q_count + 2 * heads.kv_count, dim)
        qk, v = qkv.split([heads.q_count + heads.kv_count, heads.kv_count], dim=1)
        q, k = rotate(qk, *rotary).split([heads.q_count, heads.kv_count], dim=1)
        attended = self.attention.forward(q, k, v, cache.keys, cache.values, batch)
        out: Tensor = self.out(attended.reshape(len(x), heads.q_count * dim))
        return out


class LlamaLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, window: int | None) -> None:
        super().__init__()
        self.input_norm = RMSNorm(build.vector(f"{prefix}.input_layernorm.weight"), config.norm_eps)
        self.attention = LlamaAttention(config, build, f"{prefix}.self_attn", window)
        self.mlp_norm = RMSNorm(build.vector(f"{prefix}.post_attention_layernorm.weight"), config.norm_eps)
        self.mlp = GatedMLP(build, f"{prefix}.mlp", config.intermediate_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, cache: LayerCache) -> Tensor:
        x = x + self.attention(self.input_norm(x), rotary, batch, cache)
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class LlamaForCausalLM(nn.Module):
    """The whole decoder."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        window = self.window(config)
        heads = build.heads(config.num_heads, config.num_kv_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding("model.embed_tokens.weight", config.vocab_size)
        self.rotary = Rotary(config.rope, build.loader.device, build.loader.dtype)
        self.layers = nn.ModuleList(
            LlamaLayer(config, build, f"model.layers.{index}", window) for index in range(config.num_layers)
        )
        self.norm = RMSNorm(build.vector("model.norm.weight"), config.norm_eps)
        head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
        self.head = build.output_head(head, config.vocab_size)

    @staticmethod
    def window(config: ModelConfig) -> int | None:
        """How far back a token sees: everywhere."""
        return None

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        x = self.embedding(tokens)
        rotary = self.rotary.at(positions)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, rotary, batch, cache)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.head(hidden)
        return out
