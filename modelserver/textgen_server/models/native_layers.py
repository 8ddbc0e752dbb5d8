"""Llama's layers on the CPU, all in one call: with few rows, what lies between calls takes as long as some of the work.

Called by llama.py. native/layers.cpp does what LlamaLayer does.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor, nn

from textgen_server.attention.base import AttentionBatch
from textgen_server.attention.native import NativeAttention
from textgen_server.layers.mlp import GatedMLP
from textgen_server.layers.norm import RMSNorm, Stream
from textgen_server.layers.self_attention import SelfAttention
from textgen_server.models.base import LayerCache
from textgen_server.native import ops


class NativeLayers:
    """Layers of parts that the CPU's kernels have. Made by `of`."""

    def __init__(self, layers: Sequence[ops.Layer], attentions: Sequence[NativeAttention]) -> None:
        self._layers = (ops.Layer * len(layers))(*layers)
        self._attentions = attentions

    @classmethod
    def of(cls, layers: nn.ModuleList) -> "NativeLayers | None":
        """`layers`, which are LlamaLayers; None where one of them has a part that the kernels have not."""
        found = [_native(*map(layer.get_submodule, ("input_norm", "attention", "mlp_norm", "mlp"))) for layer in layers]
        whole = [pair for pair in found if pair is not None]
        if not whole or len(whole) < len(found):
            return None
        return cls([layer for layer, _ in whole], [attention for _, attention in whole])

    def run(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], batch: AttentionBatch, caches: Sequence[LayerCache]
    ) -> Stream:
        """What the last layer gives where the first gets x [T, hidden], which is overwritten."""
        for layer, attention, cache in zip(self._layers, self._attentions, caches, strict=True):
            layer.call = ctypes.addressof(attention.call(cache.keys, cache.values, batch))
            layer.key_pool, layer.value_pool = cache.keys.data_ptr(), cache.values.data_ptr()
        return ops.run_layers(self._layers, x, rotary)


def _native(
    input_norm: nn.Module, attention: nn.Module, mlp_norm: nn.Module, mlp: nn.Module
) -> tuple[ops.Layer, NativeAttention] | None:
    if not isinstance(attention, SelfAttention) or not isinstance(mlp, GatedMLP) or not attention.rotates:
        return None
    if not isinstance(input_norm, RMSNorm) or not isinstance(mlp_norm, RMSNorm):
        return None
    attends, multiplies = attention.native, mlp.native
    if attends is None or multiplies is None or not ops.fit(input_norm.weight, mlp_norm.weight):
        return None
    (qkv, attending, output), (gate_up, down) = attends, multiplies
    layer = ops.Layer(
        attention_norm=input_norm.weight.data_ptr(),
        mlp_norm=mlp_norm.weight.data_ptr(),
        qkv=qkv.address,
        output=output.address,
        gate_up=gate_up.address,
        down=down.address,
        attention_eps=input_norm.eps,
        mlp_eps=mlp_norm.eps,
    )
    return layer, attending
