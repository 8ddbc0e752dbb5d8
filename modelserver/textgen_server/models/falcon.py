"""Falcon (Almazrouei et al. 2023), all three of its shapes:

falcon-7b    one key and value for all heads; attention and MLP side by side behind one norm
falcon-40b   `new_decoder_architecture`: groups of heads, a norm each for attention and MLP
falcon-rw    every head its own key and value; ALiBi; attention, then MLP
"""

from dataclasses import replace

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.errors import CheckpointError
from textgen_server.layers.alibi import alibi_slopes
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import MLP
from textgen_server.layers.norm import Stream
from textgen_server.layers.qkv import grouped
from textgen_server.layers.rotary import Rotary
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig, count, flag
from textgen_server.models.decoder import Decoder


def new_architecture(config: ModelConfig) -> bool:
    """Is it of falcon-40b's kind? Its first release says so by its model_type alone."""
    return flag(config.raw, "new_decoder_architecture", config.model_type == "RefinedWeb")


def num_kv_heads(config: ModelConfig) -> int:
    """KV heads of the model. Raises CheckpointError when the heads are no multiple of them."""
    if not new_architecture(config):
        return 1 if flag(config.raw, "multi_query", True) else config.num_heads
    kv_heads = count(config.raw, "num_kv_heads", config.num_heads)
    if config.num_heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads ({config.num_heads}) must be a multiple of num_kv_heads ({kv_heads})"
        )
    return kv_heads


class FalconLayer(nn.Module):
    """x + attention(norm(x)) + mlp(norm'(x)), with one norm for both or one for each; or one after the other."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        new = new_architecture(config)
        self.parallel = new or flag(config.raw, "parallel_attn", True)
        two_norms = new and count(config.raw, "num_ln_in_parallel_attn", 2) == 2
        input_norm, mlp_norm = ("ln_attn", "ln_mlp") if two_norms else ("input_layernorm", "post_attention_layernorm")
        self.shares_norm = self.parallel and not two_norms
        self.input_norm = build.layer_norm(f"{prefix}.{input_norm}", config.norm_eps)
        if not self.shares_norm:
            self.mlp_norm = build.layer_norm(f"{prefix}.{mlp_norm}", config.norm_eps)
        self.attention = self._attention(config, build, f"{prefix}.self_attention")
        self.mlp = MLP(
            build,
            f"{prefix}.mlp",
            config.intermediate_size,
            config.activation("activation", "gelu"),
            ("dense_h_to_4h", "dense_4h_to_h"),
            summed=not self.parallel,
        )
        self.group = build.group

    def _attention(self, config: ModelConfig, build: Builder, prefix: str) -> SelfAttention:
        heads, dim = build.heads(config.num_heads, config.num_kv_heads), config.head_dim
        alibi = flag(config.raw, "alibi", False)
        # Falcon scales its biases as it does the logits.
        slopes = alibi_slopes(config.num_heads)[heads.q_start :][: heads.q_count].to(build.loader.device) * dim**-0.5
        spec = AttentionSpec(heads.q_count, heads.kv_count, dim, dim**-0.5, alibi_slopes=slopes if alibi else None)
        qkv = grouped(f"{prefix}.query_key_value", heads, dim, config.num_heads, config.num_kv_heads)
        rotary_dim = 0 if alibi else dim
        return SelfAttention(build, heads, spec, qkv, f"{prefix}.dense", rotary_dim, summed=not self.parallel)

    def forward(
        self, stream: Stream, rotary: tuple[Tensor, Tensor] | None, batch: AttentionBatch, cache: LayerCache
    ) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended: Tensor = self.attention(normed, rotary, batch, cache.keys, cache.values)
        if self.parallel:
            normed = normed if self.shares_norm else self.mlp_norm(x)
            return x, self.group.all_reduce(attended + self.mlp(normed))
        x, normed = self.mlp_norm.after((x, attended))
        return x, self.mlp(normed)


class FalconForCausalLM(Decoder):
    """The whole decoder."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        config = replace(config, num_kv_heads=num_kv_heads(config))
        root = build.root("word_embeddings.weight", ("transformer.", ""))
        heads = build.heads(config.num_heads, config.num_kv_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding(f"{root}word_embeddings.weight", config.vocab_size)
        alibi = flag(config.raw, "alibi", False)
        self.rotary = None if alibi else Rotary(config.rope, build.loader.device, build.loader.dtype)
        self.layers = nn.ModuleList(
            FalconLayer(config, build, f"{root}h.{index}") for index in range(config.num_layers)
        )
        self.norm = build.layer_norm(f"{root}ln_f", config.norm_eps)
        head = f"{root}word_embeddings.weight" if config.tied_embeddings else "lm_head.weight"
        self.head = build.output_head(head, config.vocab_size)
