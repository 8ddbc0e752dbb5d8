"""How a product of few rows is shared out to the programs of a GPU: by output features, and by input features where
those are too few to keep it busy."""

from functools import cache

import torch

_MAX_SPLITS = 16
# Programs for each of the device's multiprocessors, from which on further splits bring nothing.
_WAVES = 2


def split(tiles: int, columns: int, device: torch.device) -> tuple[int, int]:
    """(tiles of each split, splits) of `tiles` tiles of input features, with `columns` tiles of output features."""
    wanted = _WAVES * _processors(device) // columns
    steps = -(-tiles // max(1, min(tiles, wanted, _MAX_SPLITS)))
    return steps, -(-tiles // steps)


@cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the device; in Triton's interpreter, which has none, a number that leads to splits."""
    if device.type != "cuda":
        return 32
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
