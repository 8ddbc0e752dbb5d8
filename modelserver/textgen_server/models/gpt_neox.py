"""GPT-NeoX and Pythia (Black et al. 2022): attention and MLP side by side, interleaved heads, partial rotary."""

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import MLP
from textgen_server.layers.norm import Stream
from textgen_server.layers.qkv import grouped
from textgen_server.layers.rotary import Rotary
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig, flag
from textgen_server.models.decoder import Decoder


class GPTNeoXLayer(nn.Module):
    """x + attention(norm(x)) + mlp(norm'(x)); or, where config.json has `use_parallel_residual` off, one after the
    other."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        self.parallel = parallel = flag(config.raw, "use_parallel_residual", True)
        heads, dim = build.heads(config.num_heads, config.num_heads), config.head_dim
        self.input_norm = build.layer_norm(f"{prefix}.input_layernorm", config.norm_eps)
        self.attention = SelfAttention(
            build,
            heads,
            AttentionSpec(heads.q_count, heads.kv_count, dim, dim**-0.5),
            grouped(f"{prefix}.attention.query_key_value", heads, dim, config.num_heads, config.num_heads),
            f"{prefix}.attention.dense",
            config.rope.dim,
            summed=not parallel,
        )
        self.mlp_norm = build.layer_norm(f"{prefix}.post_attention_layernorm", config.norm_eps)
        self.mlp = MLP(
            build,
            f"{prefix}.mlp",
            config.intermediate_size,
            config.activation("hidden_act", "gelu"),
            ("dense_h_to_4h", "dense_4h_to_h"),
            summed=not parallel,
        )
        self.group = build.group

    def forward(
        self, stream: Stream, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, cache: LayerCache
    ) -> Stream:
        x, normed = self.input_norm.after(stream)
        attended: Tensor = self.attention(normed, rotary, batch, cache.keys, cache.values)
        if self.parallel:
            return x, self.group.all_reduce(attended + self.mlp(self.mlp_norm(x)))
        x, normed = self.mlp_norm.after((x, attended))
        return x, self.mlp(normed)


class GPTNeoXForCausalLM(Decoder):
    """The whole decoder."""

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        root = build.root("embed_in.weight", ("gpt_neox.", ""))
        heads = build.heads(config.num_heads, config.num_heads)
        self.cache_spec = CacheSpec(config.num_layers, heads.kv_count, config.head_dim)
        self.embedding = build.embedding(f"{root}embed_in.weight", config.vocab_size)
        self.rotary = Rotary(config.rope, build.loader.device, build.loader.dtype)
        self.layers = nn.ModuleList(
            GPTNeoXLayer(config, build, f"{root}layers.{index}") for index in range(config.num_layers)
        )
        self.norm = build.layer_norm(f"{root}final_layer_norm", config.norm_eps)
        head = f"{root}embed_in.weight" if config.tied_embeddings else "embed_out.weight"
        self.head = build.output_head(head, config.vocab_size)
