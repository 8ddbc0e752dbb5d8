"""Rounding of activations on a GPU in one launch, where torch's operators need eight. Needs Triton."""

import torch
from torch import Tensor

from textgen_server.quantization.scaled import LARGEST
from textgen_server.quantization.scaled_kernels import round_rows

_STEP = 1024


def rounded(rows: Tensor, dtype: torch.dtype, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """As scaled.rounded, of rows [T, in]."""
    count, size = rows.shape
    codes = torch.empty(count, size, dtype=dtype, device=rows.device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=rows.device)
    given, dynamic = (1.0, True) if scale is None else (scale, False)
    round_rows[(count,)](
        rows.contiguous(), codes, scales, size, given, LARGEST=LARGEST[dtype], DYNAMIC=dynamic, STEP=_STEP
    )
    return codes, scales
