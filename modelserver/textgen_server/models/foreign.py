"""Causal models that have no module here, run by transformers' own code on the paged cache.

transformers lets a model's attention be replaced by name. Ours takes the place: it gets one flat batch of all
sequences, [1, heads, T, features], writes keys and values into the layer's pools and attends by the block tables, so
that such a model joins the same batches, prefix cache and chunked prefill as the families with modules of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.attention.base import Attention, AttentionBatch, AttentionSpec
from textgen_server.errors import CheckpointError, StartupError
from textgen_server.layers.build import Builder
from textgen_server.models.base import CacheSpec, LayerCache
from textgen_server.models.config import ModelConfig
from textgen_server.models.foreign_config import their_code
from textgen_server.models.foreign_weights import load_theirs

ATTENTION = "textgen_paged"
"""Our attention's name in transformers' interface."""

# What models hand to attention beside queries, keys and values, and which changes nothing that it computes here.
_HARMLESS = {
    "dropout", "position_ids", "position_embeddings", "cache_position", "cache_params", "use_cache",
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "is_causal",
    "logits_to_keep", "layer_idx",
}  # fmt: skip


@dataclass
class Paged:
    """One model's side of the interface: its attention layers, and the step that is running."""

    backend: type[Attention]
    model_type: str
    layers: dict[nn.Module, tuple[int, Attention]] = field(default_factory=dict)
    specs: list[AttentionSpec] = field(default_factory=list)
    batch: AttentionBatch | None = None
    caches: list[LayerCache] = field(default_factory=list)

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, heads, dim], k and v [T, kv_heads, dim] of the step -> [T, heads, dim]."""
        index, attention = self.layers[module]
        if self.batch is None:
            return torch.zeros_like(q)
        cache = self.caches[index]
        return attention.forward(q, k, v, cache.keys, cache.values, self.batch)

    def enter(self, module: nn.Module, spec: AttentionSpec) -> None:
        """Take in a layer, the first time that it attends. Raises CheckpointError where it already has."""
        if module in self.layers:
            raise CheckpointError(_refusal(self.model_type, "its layers attend more than once in a step"))
        self.layers[module] = (len(self.specs), self.backend(spec))
        self.specs.append(spec)


def paged_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **how: Any
) -> tuple[Tensor, None]:
    """transformers' interface: query [1, heads, T, dim], key and value [1, kv_heads, T, dim] -> [1, T, heads, dim]."""
    paged: Paged = module.textgen_paged  # type: ignore[assignment]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    width, value_width = q.shape[-1], v.shape[-1]
    if paged.batch is None:
        paged.enter(module, _spec(paged.model_type, module, q, k, v, attention_mask, how))
    v = F.pad(v, (0, width - value_width))  # latent attention has narrower values
    attended = paged.attend(module, q.contiguous(), k.contiguous(), v.contiguous())
    return attended[None, ..., :value_width], None


def _spec(
    model_type: str, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: Mapping[str, Any]
) -> AttentionSpec:
    """What a layer asks of attention. Raises CheckpointError where that is more than pages can give."""
    known = {"scaling", "sliding_window", "softcap"}
    strange = sorted(name for name, value in how.items() if value is not None and name not in known | _HARMLESS)
    if mask is not None:
        strange.append("attention_mask")
    if strange:
        raise CheckpointError(_refusal(model_type, f"its attention takes {strange[0]}, which paged attention has not"))
    causal = how.get("is_causal", getattr(module, "is_causal", True))
    if causal is False or len(k) != len(q) or v.shape[-1] > q.shape[-1]:
        raise CheckpointError(_refusal(model_type, "it does not attend from each token to those before it"))
    (_, heads, dim), kv_heads = q.shape, k.shape[1]
    scale = how.get("scaling")
    window, softcap = how.get("sliding_window"), how.get("softcap")
    return AttentionSpec(heads, kv_heads, dim, dim**-0.5 if scale is None else float(scale), window, None, softcap)


def _sliding_layers(config: ModelConfig) -> int | None:
    """How many layers should have a window; None where config.json does not say."""
    theirs = config.foreign.config if config.foreign else None
    kinds = getattr(theirs, "layer_types", None)
    return kinds.count("sliding_attention") if kinds and getattr(theirs, "sliding_window", None) else None


def _refusal(model_type: str, reason: str) -> str:
    return f"config.json: model_type {model_type!r} cannot be served: {reason}"


class _Hidden:
    """What a decoder returns, for code that only asks for the hidden states; all else of it is absent."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


class _Given(nn.Module):
    """Stands where the decoder was, and returns hidden states that are there already."""

    hidden: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> _Hidden:
        return _Hidden(self.hidden)


class ForeignForCausalLM(nn.Module):
    """transformers' model in two halves: its decoder, and what it makes of hidden states, which may be more than a
    matrix (Cohere and Granite scale logits, others cap them)."""

    capturable = False  # nobody has looked whether transformers' code waits for the device

    def __init__(self, config: ModelConfig, build: Builder) -> None:
        super().__init__()
        if build.group.size > 1:
            raise StartupError(
                f"--num-shard {build.group.size}: model_type {config.model_type!r} is run by transformers' code, which "
                "is not cut over shards here; set --num-shard 1"
            )
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, paged_attention)
        self.theirs = load_theirs(config, build, ATTENTION)
        self.paged = Paged(build.attention, config.model_type)
        for module in self.theirs.modules():
            module.textgen_paged = self.paged
        self.decoder: nn.Module = self.theirs.get_decoder()
        if self.decoder is self.theirs.get_output_embeddings():  # which some call their decoder
            self.decoder = self.theirs.base_model
        self.given = _Given()
        self.theirs.set_submodule(self._place(config), self.given)
        self.cache_spec = self._observe(config, build)

    def _place(self, config: ModelConfig) -> str:
        """The decoder's name. Raises CheckpointError where there is none within the model."""
        for name, module in self.theirs.named_modules():
            if module is self.decoder and name:
                return str(name)
        raise CheckpointError(_refusal(config.model_type, "its decoder cannot be told from its output head"))

    def _observe(self, config: ModelConfig, build: Builder) -> CacheSpec:
        """Run two tokens without a cache, to learn what each layer asks of attention."""
        tokens = torch.zeros(2, dtype=torch.int64, device=build.loader.device)
        with their_code(config.model_type):
            self._decode(tokens, torch.arange(2, device=tokens.device))
        specs = self.paged.specs
        if len(specs) != config.num_layers:
            reason = f"{config.num_layers} layers attend {len(specs)} times through transformers' attention interface"
            raise CheckpointError(_refusal(config.model_type, reason))
        if _sliding_layers(config) not in (None, sum(spec.window is not None for spec in specs)):
            raise CheckpointError(_refusal(config.model_type, "its sliding layers do not tell attention their window"))
        if len({(spec.num_kv_heads, spec.head_dim) for spec in specs}) > 1:
            raise CheckpointError(_refusal(config.model_type, "its layers have different numbers or sizes of heads"))
        if obstacle := build.attention.obstacle(specs[0].head_dim):
            raise CheckpointError(_refusal(config.model_type, f"{build.attention.__name__} {obstacle}"))
        return CacheSpec(len(specs), specs[0].num_kv_heads, specs[0].head_dim)

    def _decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        out: Tensor = self.decoder(input_ids=tokens[None], position_ids=positions[None], use_cache=False)[0]
        return out[0]

    def forward(self, tokens: Tensor, positions: Tensor, batch: AttentionBatch, caches: list[LayerCache]) -> Tensor:
        """See models.base.CausalModel."""
        self.paged.batch, self.paged.caches = batch, caches
        return self._decode(tokens, positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """See models.base.CausalModel."""
        self.given.hidden = hidden[None]
        tokens = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        out: Tensor = self.theirs(input_ids=tokens, use_cache=False).logits
        return out[0]
