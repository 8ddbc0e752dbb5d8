"""Linear layers that add a low-rank product for the rows of a step that use an adapter (Hu et al. 2021).

One base model serves rows of many adapters in one batch: what `AdapterRows` says before each forward pass holds for all
layers of a rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from textgen_server.adapters.peft import Adapter, LowRank


@dataclass
class AdapterRows:
    """Which rows of the flat batch use which adapter in this step: (name, rows [n] int64). Rows that use none are
    in no entry."""

    active: list[tuple[str, Tensor]] = field(default_factory=list)


Output = tuple[str, int, int | None]
"""Output features of a matrix that a layer computes: (module, start, length); None for all of them."""


class LoraLinear(nn.Module):
    """`inner`, and for some rows B A x.

    Args:
        outputs: what the inner layer computes, in order.
        inputs: (start, length) of the input features that this rank holds, or None for all.
        rows: shared by all layers of the model.
    """

    def __init__(
        self, inner: nn.Module, outputs: Sequence[Output], inputs: tuple[int, int] | None, rows: AdapterRows
    ) -> None:
        super().__init__()
        self.inner = inner
        self.outputs = tuple(outputs)
        self.inputs = inputs
        self.rows = rows
        self.adapters: dict[str, LowRank] = {}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        for name, rows in self.rows.active:
            added = self.adapters.get(name)
            if added is not None:
                out[rows] += (x[rows] @ added.a.T) @ added.b.T
        return out

    def share(self, adapter: Adapter) -> LowRank | None:
        """What `adapter` has for this layer on this rank, in float32; None for nothing."""
        matrices = {module: adapter.matrices[module] for module in self.modules_named if module in adapter.matrices}
        if not matrices:
            return None
        start, length = self.inputs or (0, next(iter(matrices.values())).a.shape[1])
        a = torch.cat([matrix.a[:, start : start + length] for matrix in matrices.values()])
        # The ranks of the layer's modules lie side by side; an output reads those of its own module.
        places: dict[str, slice] = {}
        for module, matrix in matrices.items():
            first = max((place.stop for place in places.values()), default=0)
            places[module] = slice(first, first + len(matrix.a))
        blocks = []
        for module, first, count in self.outputs:
            part = matrices[module].b[first:][:count] if module in matrices else torch.zeros(count or 0, 0)
            block = torch.zeros(len(part), len(a))
            if module in matrices:
                block[:, places[module]] = part
            blocks.append(block)
        return LowRank(a, torch.cat(blocks))

    @property
    def modules_named(self) -> list[str]:
        """The modules whose outputs this layer computes, in order."""
        return list(dict.fromkeys(module for module, _, _ in self.outputs))

    def remove(self, name: str) -> None:
        """Forget an adapter, if there is one of that name."""
        self.adapters.pop(name, None)
