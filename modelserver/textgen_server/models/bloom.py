"""BLOOM (Le Scao et al. 2022): ALiBi in place of positions, a norm on the embeddings, interleaved heads."""

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.activation import ACTIVATIONS
from textgen_server.layers.alibi import alibi_slopes
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import MLP
from textgen_server.layers.norm import Stream
from textgen_server.layers.qkv import grouped
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig, flag
from textgen_server.models.decoder import Decoder


class BloomLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). With `apply_residual_connection_post_layernorm`, what is added to
    is the norm's output."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        heads, dim = build.heads(config.num_heads, config.num_heads), config.head_dim
        slopes = alibi_slopes(config.num_heads)[heads.q_start :][: heads.q_count].to(build.loader.device)
        self.input_norm = build.layer_norm(f"{prefix}.input_layernorm", config.norm_eps)
        self.attention = SelfAttention(
            build,
            heads,
            AttentionSpec(heads.q_count, heads.kv_count, dim, dim**-0.5, alibi_slopes=slopes),
            grouped(f"{prefix}.self_attention.query_key_value", heads, dim, config.num_heads, config.num_heads),
            f"{prefix}.self_attention.dense",
            rotary_dim=0,
        )
        self.mlp_norm = build.layer_norm(f"{prefix}.post_attention_layernorm", config.norm_eps)
        self.mlp = MLP(
            build,
            f"{prefix}.mlp",
            config.intermediate_size,
            ACTIVATIONS["gelu_pytorch_tanh"],
            ("dense_h_to_4h", "dense_4h_to_h"),
        )
        self.normed_residual = flag(config.raw, "apply_residual_connection_post_layernorm", False)

    def forward(self, stream: Stream, rotary: None, batch: AttentionBatch, cache: LayerCache) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended = self.attention(normed, rotary, batch, cache.keys, cache.values)
        x, normed = self.mlp_norm.after((normed if self.normed_residual else x, attended))
        return normed if self.normed_residual else x, self.mlp(normed)


class BloomForCausalLM(Decoder):
    """The whole decoder."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        root = build.root("word_embeddings.weight", ("transformer.", ""))
        heads = build.heads(config.num_heads, config.num_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding(f"{root}word_embeddings.weight", config.vocab_size)
        self.embedding_norm = build.layer_norm(f"{root}word_embeddings_layernorm", config.norm_eps)
        self.rotary = None
        self.layers = nn.ModuleList(BloomLayer(config, build, f"{root}h.{index}") for index in range(config.num_layers))
        self.norm = build.layer_norm(f"{root}ln_f", config.norm_eps)
        head = f"{root}word_embeddings.weight" if config.tied_embeddings else "lm_head.weight"
        self.head = build.output_head(head, config.vocab_size)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        out: Tensor = self.embedding_norm(super().embed(tokens, positions))
        return out
