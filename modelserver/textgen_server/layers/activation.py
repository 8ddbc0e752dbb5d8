"""Activation functions by the names that config.json has for them."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from textgen_server.errors import CheckpointError

Activation = Callable[[Tensor], Tensor]

_tanh_gelu = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
}
"""The tanh approximation of GELU (Hendrycks and Gimpel 2016) goes by three names."""


def activation(name: object, field: str) -> Activation:
    """The function called `name`. Raises CheckpointError, naming the `field` that has it, when there is none."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"config.json: {field} {name!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
