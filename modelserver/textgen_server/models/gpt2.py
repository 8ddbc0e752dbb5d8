"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, plain MLP; its matrices are stored transposed."""

from dataclasses import replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.build import Builder, Piece
from textgen_server.layers.mlp import MLP
from textgen_server.layers.norm import Stream
from textgen_server.layers.partition import Heads
from textgen_server.layers.qkv import stacked
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig, flag
from textgen_server.models.decoder import Decoder


class GPT2Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    default_activation: ClassVar[str] = "gelu_new"

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, index: int) -> None:
        super().__init__()
        heads, dim = build.heads(config.num_heads, config.num_kv_heads), config.head_dim
        scale = dim**-0.5 if flag(config.raw, "scale_attn_weights", True) else 1.0
        if flag(config.raw, "scale_attn_by_inverse_layer_idx", False):
            scale /= index + 1
        self.input_norm = build.layer_norm(f"{prefix}.ln_1", config.norm_eps)
        self.attention = SelfAttention(
            build,
            heads,
            AttentionSpec(heads.q_count, heads.kv_count, dim, scale),
            self.qkv(config, heads, f"{prefix}.attn.c_attn"),
            f"{prefix}.attn.c_proj",
            rotary_dim=0,
        )
        self.mlp_norm = build.layer_norm(f"{prefix}.ln_2", config.norm_eps)
        activation = config.activation("activation_function", self.default_activation)
        self.mlp = MLP(build, f"{prefix}.mlp", config.intermediate_size, activation, ("c_fc", "c_proj"))

    @classmethod
    def qkv(cls, config: ModelConfig, heads: Heads, name: str) -> list[Piece]:
        return stacked(name, heads, config.head_dim, config.num_heads, config.num_kv_heads)

    def forward(self, stream: Stream, rotary: None, batch: AttentionBatch, cache: LayerCache) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended = self.attention(normed, rotary, batch, cache.keys, cache.values)
        x, normed = self.mlp_norm.after((x, attended))
        return x, self.mlp(normed)


class GPT2LMHeadModel(Decoder):
    """The whole decoder."""

    layer: ClassVar[type[GPT2Layer]] = GPT2Layer
    transposed: ClassVar[bool] = True

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        config.refuse("add_cross_attention", False)
        build = replace(build, transposed=self.transposed)
        root = build.root("wte.weight", ("transformer.", ""))
        heads = build.heads(config.num_heads, config.num_kv_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding(f"{root}wte.weight", config.vocab_size)
        self.positions = build.vector(f"{root}wpe.weight")
        self.rotary = None
        self.layers = nn.ModuleList(
            self.layer(config, build, f"{root}h.{index}", index) for index in range(config.num_layers)
        )
        self.norm = build.layer_norm(f"{root}ln_f", config.norm_eps)
        head = f"{root}wte.weight" if config.tied_embeddings else "lm_head.weight"
        self.head = build.output_head(head, config.vocab_size)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return super().embed(tokens, positions) + F.embedding(positions, self.positions)
