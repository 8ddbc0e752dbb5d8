"""Linear layers that watch their inputs, and round their matrices accordingly. Built for runner/calibration.py."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgen_server.quantization.base import Quantization
from textgen_server.quantization.gptq_rounding import Rounding, round_matrix
from textgen_server.quantization.grouped import Grouped
from textgen_server.weights.loader import Loader, Part


class Calibrated(Quantization):
    """The quantization method whose layers are `CalibratedLinear`."""

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        return CalibratedLinear(loader, parts, bias)


class CalibratedLinear(nn.Module):
    """x [..., in] -> x W^T + b [..., out]. W is in memory between `open` and `close` alone."""

    def __init__(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> None:
        super().__init__()
        self.loader = loader
        self.parts = parts
        self.bias = bias
        self.weight: Tensor | None = None
        self.hessian: Tensor | None = None

    def open(self) -> None:
        """Read W, and begin to watch the inputs."""
        self.weight = self.loader.tensor(self.parts)
        size = self.weight.shape[1]
        self.hessian = torch.zeros(size, size, device=self.loader.device)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            raise RuntimeError("open the layer first")
        if self.hessian is not None:
            inputs = x.reshape(-1, x.shape[-1]).float()
            self.hessian.addmm_(inputs.t(), inputs)
        return F.linear(x, self.weight, self.bias)

    def round(self, how: Rounding) -> dict[str, Grouped]:
        """Round the whole matrices that W is made of, by their names; from then on, W has the rounded values.

        They share their inputs, and are rounded together.
        """
        if self.hessian is None:
            raise RuntimeError("open the layer first")
        names = list(dict.fromkeys(part.name for part in self.parts))
        stored = [self.loader.read(self._whole(name)) for name in names]
        whole = torch.cat([matrix.to(self.loader.device, torch.float32) for matrix in stored])
        rounded = round_matrix(whole, self.hessian, how, names[0])
        self.hessian = None
        rows = [len(matrix) for matrix in stored]
        values = dict(zip(names, rounded.dequantized().to(self.loader.dtype).split(rows), strict=True))
        self.weight = torch.cat([_cut(values[part.name], part) for part in self.parts])
        codes, scales, zeros = (matrix.split(rows, dim=1) for matrix in (rounded.codes, rounded.scales, rounded.zeros))
        return {
            name: Grouped(codes[index], scales[index], zeros[index], rounded.groups, how.bits)
            for index, name in enumerate(names)
        }

    def close(self) -> None:
        """Forget W."""
        self.weight = None

    def _whole(self, name: str) -> Part:
        transposed = self.parts[0].transposed
        shape = self.loader.checkpoint.shape(name)
        return Part(name, 0, 0, shape[1 if transposed else 0], transposed)


def _cut(matrix: Tensor, part: Part) -> Tensor:
    return matrix if part.dim is None else matrix.narrow(part.dim, part.start, part.length)
