"""Products of few rows on a GPU by a kernel of our own, where it has been seen to be the faster one. Needs Triton."""

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from textgen_server.layers import skinny_kernels as kernels
from textgen_server.quantization.splits import arrivals, multiply

_log = logging.getLogger(__name__)

FEW_ROWS = 16
# Fewer outputs, such as a router's, are over in no time, and must be the same on all ranks.
_FEWEST_OUTPUTS = 1024
_INPUTS, _OUTPUTS, _STAGES = 256, 16, 4

# What the kernel must gain, that chance does not choose.
_GAIN = 0.97
_REPETITIONS, _ROUNDS = 10, 5
_CACHE_BYTES = 64 << 20  # more than any GPU's second level


class SkinnyLinear(nn.Module):
    """x [..., in] -> x W^T + b [..., out], with W [out, in] on a GPU, in 16 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.arrivals = arrivals(weight.device)

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Can it hold that matrix?"""
        in_16_bits = weight.dtype in (torch.bfloat16, torch.float16)
        return weight.is_cuda and in_16_bits and weight.is_contiguous() and len(weight) >= _FEWEST_OUTPUTS

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if 0 < rows <= FEW_ROWS and self._pays(rows, x):
            return self.multiplied(x.reshape(rows, -1)).view(*x.shape[:-1], len(self.weight))
        return F.linear(x, self.weight, self.bias)

    def multiplied(self, x: Tensor) -> Tensor:
        """The product by our kernel; x [rows, in] with FEW_ROWS rows at most."""
        out, size = self.weight.shape
        how = {
            "EVEN": size % _INPUTS == 0 and out % _OUTPUTS == 0,
            "INPUTS": _INPUTS, "OUTPUTS": _OUTPUTS, "STAGES": _STAGES,
        }  # fmt: skip
        tiles = triton.cdiv(size, _INPUTS)
        arguments = (self.weight, size)
        return multiply(kernels.multiply_few_rows, x.contiguous(), arguments, out, tiles, self.arrivals, how, self.bias)

    def _pays(self, rows: int, x: Tensor) -> bool:
        """Is our kernel the faster one? Measured once for all layers of a shape, before graphs are captured: while one
        is, what has not been measured is cuBLAS's."""
        key = (x.device, x.dtype, *self.weight.shape, self.bias is not None, triton.next_power_of_2(rows))
        if key not in _verdicts:
            if torch.cuda.is_current_stream_capturing():
                return False
            _verdicts[key] = self._measured(x.reshape(rows, -1))
        return _verdicts[key]

    def _measured(self, x: Tensor) -> bool:
        try:
            ours, theirs = (_seconds(run, x) for run in (self.multiplied, self._by_cublas))
        except Exception:
            _log.warning("products of few rows stay with cuBLAS: our kernel for them failed here", exc_info=True)
            return False
        shape = " x ".join(map(str, self.weight.shape))
        _log.debug("%d rows by %s: %.1f us, cuBLAS %.1f us", len(x), shape, ours * 1e6, theirs * 1e6)
        return ours < _GAIN * theirs

    def _by_cublas(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


_verdicts: dict[tuple[object, ...], bool] = {}


def _seconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of a run that finds nothing in the cache, launched by a graph as decodes are; with what empties the cache."""
    other = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device=x.device)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        run(x)  # compiles
        stream.synchronize()
        # Not by torch.cuda.graph, which collects garbage first: there are dozens of these.
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(_REPETITIONS):
            other.zero_()
            run(x)
        graph.capture_end()
        return min(_replayed(graph) for _ in range(_ROUNDS)) / _REPETITIONS


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
