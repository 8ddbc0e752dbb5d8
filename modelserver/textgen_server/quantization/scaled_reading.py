"""Parts of a matrix in numbers of 8 bits, as all formats of checkpoints store it: codes [out, in], and a scale for the
whole matrix, for each row, or for each block of so many rows and columns.
"""

import math

import torch
from torch import Tensor

from textgen_server.errors import CheckpointError
from textgen_server.quantization.scaled import LARGEST, Rounding, Scaled
from textgen_server.quantization.unpacked import Range, check_shape, matrix_shape
from textgen_server.weights.checkpoint import Checkpoint

Blocks = tuple[int, int] | None
"""Rows and columns that share a scale; 0 for all there are. None where the scales' shape tells: one, or one a row."""


def check_scaled(stored: Checkpoint, prefix: str, scales: str, blocks: Blocks) -> tuple[int, int]:
    """(out, in) of `prefix`.weight with the scales `prefix`.`scales`.

    Raises CheckpointError when it is not in codes of 8 bits, or the scales do not fit it.
    """
    shape = matrix_shape(stored, f"{prefix}.weight")
    if stored.dtype(f"{prefix}.weight") not in LARGEST:
        kinds = " and ".join(str(kind) for kind in LARGEST)
        raise CheckpointError(
            f"{prefix}.weight holds {stored.dtype(f'{prefix}.weight')} beside {prefix}.{scales}, and only {kinds} can "
            "be read with scales"
        )
    name = f"{prefix}.{scales}"
    found = stored.shape(name)
    if blocks is None:
        if math.prod(found) not in (1, shape[0]):
            raise CheckpointError(
                f"{name} of shape {list(found)} is neither one scale nor one for each of the {shape[0]} rows of "
                f"{prefix}.weight"
            )
    else:
        rows, columns = _block_size(shape, blocks)
        wanted = (-(-shape[0] // rows), -(-shape[1] // columns))
        check_shape(stored, name, wanted, f"{prefix}.weight of shape {list(shape)} has blocks of {rows} by {columns}")
    return shape


def read_scaled(
    stored: Checkpoint,
    prefix: str,
    scales: str,
    blocks: Blocks,
    outputs: Range,
    inputs: Range,
    rounding: Rounding | None,
) -> Scaled:
    """A block of the matrix, cut anywhere. Raises CheckpointError as `check_scaled` does."""
    shape = check_scaled(stored, prefix, scales, blocks)
    codes = stored.slice(f"{prefix}.weight", 0, *outputs).narrow(1, *inputs)
    table = stored.tensor(f"{prefix}.{scales}").float()
    if blocks is None:
        blocks, table = (0 if table.numel() == 1 else 1, 0), table.reshape(-1, 1)
    rows, columns = _block_size(shape, blocks)
    first, last = inputs[0] // columns, -(-sum(inputs) // columns)
    of_rows = torch.arange(outputs[0], sum(outputs)) // rows
    return Scaled(codes, table[of_rows, first:last].contiguous(), columns, inputs[0] - first * columns, rounding)


def read_scale(stored: Checkpoint, name: str) -> float:
    """The one number of tensor `name`. Raises CheckpointError when there is none, or more than one."""
    if name not in stored:
        raise CheckpointError(f"{name} is missing, and quantization_config says that activations have static scales")
    tensor: Tensor = stored.tensor(name)
    if tensor.numel() != 1:
        raise CheckpointError(f"{name} of shape {list(tensor.shape)} is not one scale for all activations")
    return float(tensor.float().item())


def _block_size(shape: tuple[int, int], blocks: tuple[int, int]) -> tuple[int, int]:
    return blocks[0] or shape[0], blocks[1] or shape[1]
