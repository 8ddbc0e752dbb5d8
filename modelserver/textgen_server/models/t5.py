"""T5, Flan-T5 and mT0 (Raffel et al. 2020): encoder and decoder, RMSNorm before each layer, relative position bias.

A sequence is the encoder's tokens and behind them the decoder's, in one list of blocks (engine/request.py):

    positions   0 .. E-1             E, E+1, ...
    tokens      the prompt           start token, generated ...
    its blocks  cross keys, values   self-attention's keys and values

The step that has position 0 runs the encoder over the whole prompt and writes the cross-attention's keys and values of
every decoder layer; later steps only read them. So a decoder layer's two attentions share one pool, and none is unused.
To a backend, self-attention is that of a sequence whose first keys are hidden, with a bias by distance; cross-attention
is that of sequences that end with the encoder's last key, each with one query.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch, AttentionSpec
from textgen_server.errors import CheckpointError
from textgen_server.layers.build import Builder
from textgen_server.layers.lora import AdapterRows
from textgen_server.layers.norm import RMSNorm
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig, count
from textgen_server.models.t5_step import Step, plan_step

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
}


class RelativeBias(nn.Module):
    """What is added to the logits for the distance between key and query: exact for short ones, logarithmic buckets
    for longer, one value per head (section 2.1 of the paper)."""

    def __init__(self, config: ModelConfig, build: Builder, name: str, bidirectional: bool) -> None:
        super().__init__()
        heads = build.heads(config.num_heads, config.num_heads)
        self.buckets = count(config.raw, "relative_attention_num_buckets", 32)
        self.max_distance = count(config.raw, "relative_attention_max_distance", 128)
        self.bidirectional = bidirectional
        self.table = build.vector(name)[:, heads.q_start : heads.q_start + heads.q_count].contiguous()

    def forward(self, distances: Tensor) -> Tensor:
        """Distances [..., Q, K], key minus query -> [..., heads, Q, K]."""
        return F.embedding(self._bucket(distances), self.table).movedim(-1, -3)

    def _bucket(self, distances: Tensor) -> Tensor:
        buckets = self.buckets
        side = torch.zeros_like(distances)
        if self.bidirectional:
            buckets //= 2
            side = (distances > 0).long() * buckets
            distances = distances.abs()
        else:
            distances = (-distances).clamp(min=0)
        exact = buckets // 2
        growth = torch.log(distances.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
        return side + torch.where(distances < exact, distances, far)

    def behind(self) -> Tensor:
        """[heads, D]: of keys that lie 0, 1, ... D - 1 places before the query; from there on it is always the last."""
        return self.forward(-torch.arange(self.max_distance + 1, device=self.table.device)[:, None])[:, :, 0]


class Projections(nn.Module):
    """Query, key, value and output matrices of one attention; the heads of this rank only. T5 does not scale logits."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        heads = build.heads(config.num_heads, config.num_heads)
        self.shape = (heads.q_count, config.head_dim)
        start, length = heads.q_start * config.head_dim, heads.q_count * config.head_dim
        self.q = build.columns([(f"{prefix}.q", start, length)])
        self.kv = build.columns([(f"{prefix}.k", start, length), (f"{prefix}.v", start, length)])
        self.out = build.rows(f"{prefix}.o", start, length)

    def queries(self, x: Tensor) -> Tensor:
        out: Tensor = self.q(x).view(len(x), *self.shape)
        return out

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.kv(x).view(len(x), 2, *self.shape).unbind(1)
        return keys, values

    def output(self, attended: Tensor) -> Tensor:
        out: Tensor = self.out(attended.reshape(len(attended), -1))
        return out


class FeedForward(nn.Module):
    """wo(act(wi x)), or wo(act(wi_0 x) * wi_1 x) in the gated variants."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        kind = str(config.raw.get("feed_forward_proj", "relu"))
        gate, _, name = kind.rpartition("-")
        self.gated = gate == "gated"
        # The original code's gated variant approximates GELU, whatever the name says.
        activation = _ACTIVATIONS.get("gelu_new" if kind == "gated-gelu" else name)
        if activation is None:
            raise CheckpointError(f"config.json: feed_forward_proj {kind!r} is not supported")
        self.activation = activation
        start, length = build.share(config.intermediate_size)
        names = ("wi_0", "wi_1") if self.gated else ("wi",)
        self.inner = build.columns([(f"{prefix}.{name}", start, length) for name in names])
        self.out = build.rows(f"{prefix}.wo", start, length)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x)
        hidden, *gated = inner.chunk(2, dim=-1) if self.gated else (inner,)
        hidden = self.activation(hidden)
        out: Tensor = self.out(hidden * gated[0] if gated else hidden)
        return out


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, build: Builder, prefix: str) -> None:
        super().__init__()
        self.attention_norm = _norm(config, build, f"{prefix}.layer.0")
        self.attention = Projections(config, build, f"{prefix}.layer.0.SelfAttention")
        self.mlp_norm = _norm(config, build, f"{prefix}.layer.1")
        self.mlp = FeedForward(config, build, f"{prefix}.layer.1.DenseReluDense")

    def forward(self, x: Tensor, lengths: list[int], biases: list[Tensor]) -> Tensor:
        normed = self.attention_norm(x)
        keys, values = self.attention.keys_values(normed)
        parts = zip(*(t.split(lengths) for t in (self.attention.queries(normed), keys, values)), biases, strict=True)
        attended = [_attend(q, k, v, bias) for q, k, v, bias in parts]
        x = _within(x + self.attention.output(torch.cat(attended)))
        return _within(x + self.mlp(self.mlp_norm(x)))


class DecoderLayer(nn.Module):
    """`bias` is that of self-attention, see AttentionSpec.relative_bias."""

    def __init__(self, config: ModelConfig, build: Builder, prefix: str, bias: Tensor) -> None:
        super().__init__()
        heads = len(bias)
        plain = AttentionSpec(heads, heads, config.head_dim, scale=1.0)
        self.attend_to_own = build.attention(replace(plain, relative_bias=bias))
        self.attend_to_encoder = build.attention(plain)
        self.attention_norm = _norm(config, build, f"{prefix}.layer.0")
        self.attention = Projections(config, build, f"{prefix}.layer.0.SelfAttention")
        self.cross_norm = _norm(config, build, f"{prefix}.layer.1")
        self.cross = Projections(config, build, f"{prefix}.layer.1.EncDecAttention")
        self.mlp_norm = _norm(config, build, f"{prefix}.layer.2")
        self.mlp = FeedForward(config, build, f"{prefix}.layer.2.DenseReluDense")

    def forward(self, x: Tensor, step: Step, cache: LayerCache) -> Tensor:
        normed = self.attention_norm(x)
        queries, (keys, values) = self.attention.queries(normed), self.attention.keys_values(normed)
        attended = self.attend_to_own.forward(queries, keys, values, cache.keys, cache.values, step.own)
        x = _within(x + self.attention.output(attended))
        queries = self.cross.queries(self.cross_norm(x))
        attended = self.attend_to_encoder.attend(queries, cache.keys, cache.values, step.cross)
        x = _within(x + self.cross.output(attended))
        return _within(x + self.mlp(self.mlp_norm(x)))

    def remember(self, encoded: Tensor, slots: Tensor, cache: LayerCache, block_size: int) -> None:
        """Write the cross-attention's keys and values of what was encoded."""
        keys, values = self.cross.keys_values(encoded)
        self.attend_to_encoder.write(keys, values, cache.keys, cache.values, slots, block_size)


class T5ForConditionalGeneration(nn.Module):
    """Encoder, decoder and output head."""

    capturable = False  # encoder and decoder are told apart on the host

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        heads = build.heads(config.num_heads, config.num_heads)
        layers = count(config.raw, "num_decoder_layers", config.num_layers)
        self.cache_spec = CacheSpec(layers, heads.q_count, config.head_dim)
        self.adapter_rows = build.adapter_rows or AdapterRows()
        self.embedding = build.embedding("shared.weight", config.vocab_size)
        bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        self.encoder_bias = RelativeBias(config, build, f"encoder.{bias}", bidirectional=True)
        self.encoder = nn.ModuleList(
            EncoderLayer(config, build, f"encoder.block.{index}") for index in range(config.num_layers)
        )
        self.encoder_norm = RMSNorm(build.vector("encoder.final_layer_norm.weight"), config.norm_eps)
        behind = RelativeBias(config, build, f"decoder.{bias}", bidirectional=False).behind()
        self.decoder = nn.ModuleList(
            DecoderLayer(config, build, f"decoder.block.{index}", behind) for index in range(layers)
        )
        self.decoder_norm = RMSNorm(build.vector("decoder.final_layer_norm.weight"), config.norm_eps)
        own_head = "lm_head.weight" in build.loader
        self.head = build.output_head("lm_head.weight" if own_head else "shared.weight", config.vocab_size)
        # T5 1.0 scales what the shared embedding reads; 1.1, whose config says that it is not tied, and mT5 do not.
        tied = config.raw.get("scale_decoder_outputs", config.raw.get("tie_word_embeddings", True))
        self.head_scale = config.hidden_size**-0.5 if tied and config.model_type == "t5" else 1.0

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        """Hidden states [T, hidden]; those of the encoder's rows are zero."""
        step = batch.plan(plan_step)
        x = self.embedding(tokens)
        if step.lengths:
            rows = step.encoder_rows
            with self.adapter_rows.among(rows):
                self._encode(x[rows], step.lengths, batch.slots[rows], caches, batch.block_size)
        hidden = torch.zeros_like(x)
        y = x[step.decoder_rows]
        with self.adapter_rows.among(step.decoder_rows):
            for layer, cache in zip(self.decoder, caches, strict=True):
                y = layer(y, step, cache)
        hidden[step.decoder_rows] = self.decoder_norm(y)
        return hidden

    def _encode(self, x: Tensor, lengths: list[int], slots: Tensor, caches: list[LayerCache], block_size: int) -> None:
        places = [torch.arange(length, device=x.device) for length in lengths]
        biases = [self.encoder_bias(place[None, :] - place[:, None]) for place in places]
        for layer in self.encoder:
            x = layer(x, lengths, biases)
        x = self.encoder_norm(x)
        for layer, cache in zip(self.decoder, caches, strict=True):
            cast(DecoderLayer, layer).remember(x, slots, cache, block_size)

    def logits(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.head(hidden * self.head_scale)
        return out


def _norm(config: ModelConfig, build: Builder, prefix: str) -> RMSNorm:
    return RMSNorm(build.vector(f"{prefix}.layer_norm.weight"), config.norm_eps)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """One prompt attends to itself: [length, heads, head_dim] each, bias [heads, length, length]."""
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0).transpose(0, 1)


def _within(x: Tensor) -> Tensor:
    """T5's activations overflow in float16, which its weights were not trained for."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x
