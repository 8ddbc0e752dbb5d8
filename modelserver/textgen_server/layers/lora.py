"""Linear layers that add a low-rank product for the rows of a step that use an adapter (Hu et al. 2021).

One base model serves rows of many adapters in one batch: what `AdapterRows` says before each forward pass holds for all
layers of a rank, but for those that see only some rows of the batch (`AdapterRows.among`).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from textgen_server.adapters.peft import Adapter, LowRank
from textgen_server.layers import fused


@dataclass
class AdapterRows:
    """Which rows of the flat batch use which adapter in this step.

    Attributes:
        numbers: of all adapters that there have been, by name.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    _active: list[tuple[str, Tensor]] = field(default_factory=list)
    _flat: tuple[Tensor, Tensor] | None = None
    _seen: Tensor | None = None

    def use(self, active: list[tuple[str, Tensor]]) -> None:
        """For the next forward pass: (name, rows [n] int64). Rows that use none are in no entry."""
        self._active, self._flat = active, None

    @contextlib.contextmanager
    def among(self, seen: Tensor) -> Iterator[None]:
        """Within, layers get the rows `seen` [n] int64 of the flat batch, in this order."""
        whole = self._active, self._flat
        self._seen, self._flat = seen, None
        try:
            yield
        finally:
            self._active, self._flat = whole
            self._seen = None

    @property
    def active(self) -> list[tuple[str, Tensor]]:
        """As `use` has it, of the rows that layers get."""
        if self._seen is not None:  # not before it is asked for: the device is waited for
            places = [(name, torch.isin(self._seen, rows).nonzero()[:, 0]) for name, rows in self._active]
            self._active, self._seen = [(name, rows) for name, rows in places if len(rows)], None
        return self._active

    @property
    def count(self) -> int:
        """Of rows that use an adapter."""
        return sum(len(rows) for _, rows in self.active)

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """All rows of `active`, one behind the other, and the number of each one's adapter; both [n] int64."""
        if self._flat is None:
            numbers = [torch.full_like(rows, self.numbers[name]) for name, rows in self.active]
            self._flat = torch.cat([rows for _, rows in self.active]), torch.cat(numbers)
        return self._flat


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
        self._table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if not self.adapters or not self.rows.active:
            return out
        if fused.fit(x, out):
            from textgen_server.layers import lora_triton  # needs Triton

            if self.rows.count <= lora_triton.FEW_ROWS:
                rank = max(len(matrix.a) for matrix in self.adapters.values())
                lora_triton.add(out, x.contiguous(), self._addresses(x.device), rank, *self.rows.flat)
                return out
        for name, rows in self.rows.active:
            added = self.adapters.get(name)
            if added is not None:
                out[rows] += (x[rows] @ added.a.T) @ added.b.T
        return out

    def add(self, name: str, matrices: LowRank) -> None:
        """Take in what `share` made of an adapter, on the device of the layer."""
        self.adapters[name] = matrices
        self.rows.numbers.setdefault(name, len(self.rows.numbers))
        self._table = None

    def _addresses(self, device: torch.device) -> Tensor:
        """[adapters, 3] int64, as lora_kernels.py has it."""
        if self._table is None or len(self._table) < len(self.rows.numbers):
            table = torch.zeros(len(self.rows.numbers), 3, dtype=torch.int64)
            for name, matrices in self.adapters.items():
                entry = (matrices.a.data_ptr(), matrices.b.data_ptr(), len(matrices.a))
                table[self.rows.numbers[name]] = torch.tensor(entry)
            self._table = table.to(device)
        return self._table

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
        self._table = None
