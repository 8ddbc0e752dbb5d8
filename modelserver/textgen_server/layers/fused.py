"""Operators between matrix products in one launch each, on GPUs where Triton is installed.

Torch's operators, which stay the reference, need up to five launches for each, and a launch costs a decode more than
what it computes. The counterpart of native/ops.py.
"""

import importlib.util
from functools import cache

import torch
from torch import Tensor

_PLACES = 1024


def fit(*tensors: Tensor) -> bool:
    """Is there a GPU's kernel for these? They must be on one GPU, with rows of neighbouring numbers."""
    return _installed() and all(t.is_cuda and t.stride(-1) == 1 for t in tensors)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float, rounds_first: bool) -> Tensor:
    """x / rms(x) * weight over the last dimension of x, [rows, width] or [tokens, heads, width], in float32 but for one
    rounding to the type of x before the weight where `rounds_first` asks for it. Dimensions but the last may have any
    stride."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _normalize(x, None, weight, None, out, eps, rounds_first)
    return out


def add_and_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float, rounds_first: bool) -> tuple[Tensor, Tensor]:
    """(x + added, rms_norm of that), for x and added [rows, width]."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    _normalize(x.contiguous(), added.contiguous(), weight, total, out, eps, rounds_first)
    return total, out


def _normalize(
    x: Tensor, added: Tensor | None, weight: Tensor, total: Tensor | None, out: Tensor, eps: float, rounds_first: bool
) -> None:
    import triton

    from textgen_server.layers import fused_kernels as kernels

    width = x.shape[-1]
    inner, outer_stride, inner_stride = (1, x.stride(0), 0) if x.dim() == 2 else (x.shape[1], *x.stride()[:2])
    padded = triton.next_power_of_2(width)
    kernels.add_and_normalize[(out.numel() // width,)](
        x,
        x if added is None else added,
        weight,
        out if total is None else total,
        out,
        inner,
        outer_stride,
        inner_stride,
        width,
        eps,
        ADDS=added is not None,
        ROUNDS_FIRST=rounds_first,
        WIDTH=padded,
        num_warps=max(1, min(16, padded // 512)),
    )


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [rows, width], with gate and up the halves of the last dimension."""
    import triton

    from textgen_server.layers import fused_kernels as kernels

    gate_up = gate_up.contiguous()
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    kernels.silu_and_multiply[(rows, triton.cdiv(width, _PLACES))](gate_up, out, width, PLACES=_PLACES)
    return out
