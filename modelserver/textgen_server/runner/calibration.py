"""Quantizing a model by what it does to texts, one layer after another. Called by quantize.py.

Every layer is computed twice for every text: first to watch the inputs of its matrices, then, with these rounded, to
get the next layer's input. So each layer is rounded for what the rounded layers before it give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from textgen_server.attention.base import Attention
from textgen_server.attention.select import block_size_for
from textgen_server.engine.plan import Item, StepPlan
from textgen_server.layers.norm import Stream
from textgen_server.models.base import CausalModel
from textgen_server.quantization.calibrated import CalibratedLinear
from textgen_server.quantization.gptq_rounding import Rounding
from textgen_server.quantization.grouped import Grouped
from textgen_server.runner.inputs import StepInputs, build
from textgen_server.runner.kv_cache import CacheLayout


class Stage(nn.Module):
    """A layer that does something in its turn only; else what comes in goes out. So the model's own course brings each
    layer what it needs besides its input, and costs nothing else."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.in_turn = False
        self.input: Stream | None = None
        self.output: Stream | None = None

    def forward(self, stream: Stream, *rest: object) -> Stream:
        if not self.in_turn:
            return stream
        self.output = out = self.layer(stream if self.input is None else self.input, *rest)
        return cast(Stream, out)


@dataclass
class Calibration:
    """A model whose linear layers are `CalibratedLinear`, and the texts, as tokens, to calibrate it with."""

    model: CausalModel
    attention: type[Attention]
    texts: Sequence[Sequence[int]]
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        spec = self.model.cache_spec
        layout = CacheLayout(
            replace(spec, num_layers=1), block_size_for(self.attention, None), self.dtype, self.attention
        )
        blocks = -(-max(map(len, self.texts)) // layout.block_size)
        # The only layer in turn writes a text's keys and values, and reads them at once.
        self._caches = layout.allocate(blocks, self.device) * spec.num_layers
        self._inputs = [self._step(text, layout.block_size) for text in self.texts]
        self._hidden: list[Stream | None] = [None for _ in self.texts]

    def rounded(self, how: Rounding) -> Iterator[dict[str, Grouped]]:
        """Of each layer in turn, its matrices by their names in the checkpoint."""
        layers = cast(nn.ModuleList, cast(nn.Module, self.model).layers)
        stages = [Stage(layer) for layer in layers]
        for index, stage in enumerate(stages):
            layers[index] = stage
        for stage in stages:
            yield self._round(stage, how)

    def _round(self, stage: Stage, how: Rounding) -> dict[str, Grouped]:
        linears = [module for module in stage.modules() if isinstance(module, CalibratedLinear)]
        for linear in linears:
            linear.open()
        self._compute(stage)
        matrices: dict[str, Grouped] = {}
        for linear in linears:
            matrices |= linear.round(how)
        self._hidden = self._compute(stage)
        for linear in linears:
            linear.close()
        return matrices

    def _compute(self, stage: Stage) -> list[Stream | None]:
        """The layer's outputs, by texts."""
        outputs = []
        stage.in_turn = True
        for inputs, hidden in zip(self._inputs, self._hidden, strict=True):
            stage.input = hidden
            self.model.forward(inputs.tokens, inputs.positions, inputs.batch, self._caches)
            outputs.append(stage.output)
        stage.in_turn = False
        stage.input = stage.output = None
        return outputs

    def _step(self, text: Sequence[int], block_size: int) -> StepInputs:
        blocks = list(range(-(-len(text) // block_size)))
        return build(StepPlan([Item(list(text), 0, blocks, None)], num_decodes=0), block_size, self.device)
