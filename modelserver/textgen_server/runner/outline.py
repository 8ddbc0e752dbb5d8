"""A model before it is read: built without values, checked against its checkpoint, its size held against the device's
memory. Called by load.py."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textgen_server import memory, registry
from textgen_server.attention.base import Attention
from textgen_server.attention.select import cache_name
from textgen_server.errors import OutOfMemory, StartupError
from textgen_server.layers.build import Builder
from textgen_server.layers.linear import FullPrecision, Linear
from textgen_server.layers.partition import TooManyRanks
from textgen_server.models.base import CacheSpec, CausalModel
from textgen_server.models.config import ModelConfig
from textgen_server.models.foreign_weights import count_numbers
from textgen_server.parallel import Group
from textgen_server.quantization.base import Quantization
from textgen_server.runner.quantization import Weights
from textgen_server.runner.room import device_name, free_bytes
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.loader import Loader, Part
from textgen_server.weights.progress import Transfer, log_progress
from textgen_server.weights.survey import Survey

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outline:
    """What a rank will read.

    Attributes:
        num_bytes: as stored.
        other_bytes: of those, what is not in the matrices of linear layers.
        size: in numbers.
    """

    num_bytes: int
    other_bytes: int
    size: memory.ModelSize

    def transfer(self, config: ModelConfig, group: Group) -> Transfer:
        """Counts the reading; rank 0's is told of in the log."""
        progress = log_progress(_log) if group.rank == 0 else lambda line: None
        return Transfer("loading", config.model_type, self.num_bytes, progress)


def survey(
    config: ModelConfig, checkpoint: Checkpoint, attention: type[Attention], dtype: torch.dtype, group: Group
) -> Outline:
    """What this rank of `group` will read of `checkpoint`, one that costs nothing to read.

    Raises:
        CheckpointError: checkpoint and config.json are not of one model.
        StartupError: the model cannot be cut into so many shards.
    """
    if config.foreign is not None:
        return _foreign(config, checkpoint, dtype)
    alone, outline = _build_empty(config, Survey(checkpoint, torch.device("meta"), dtype), attention, Group())
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    alone.check(config.hidden_size, {config.hidden_size, dim, heads * dim, kv_heads * dim})
    if group.size > 1:
        unconnected = Group(group.rank, group.size, group.here)
        _, outline = _build_empty(config, Survey(checkpoint, torch.device("meta"), dtype), attention, unconnected)
    return outline


def _foreign(config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Outline:
    """Of a model that transformers builds, and whose tensors it finds and checks itself."""
    linear, others = count_numbers(config)
    cache = CacheSpec(config.num_layers, config.num_kv_heads, config.head_dim)
    size = memory.ModelSize(linear, others, cache.numbers)
    return Outline(checkpoint.num_bytes, others * dtype.itemsize, size)


def _build_empty(
    config: ModelConfig, survey: Survey, attention: type[Attention], group: Group
) -> tuple[Survey, Outline]:
    linear = _Counting()
    try:
        model: CausalModel = config.family.load()(config, Builder(survey, group, linear, attention))
    except TooManyRanks as error:
        of = f" on {nodes} nodes" if (nodes := group.size // group.size_here) > 1 else ""
        raise StartupError(f"--num-shard {group.size_here}{of} is too much for this model: {error}; lower it") from None
    num_bytes = sum(survey.stored_bytes(part) for part in survey.parts)
    size = memory.ModelSize(linear.numbers, survey.numbers - linear.numbers, model.cache_spec.numbers)
    return survey, Outline(num_bytes, num_bytes - linear.num_bytes, size)


class _Counting(Quantization):
    """The quantization method of a model that is built to see what it will read: counts what linear layers do."""

    def __init__(self) -> None:
        self.numbers = self.num_bytes = 0

    def linear(self, loader: Loader, parts: Sequence[Part], bias: Tensor | None) -> nn.Module:
        """See quantization.base.Quantization."""
        weight = loader.tensor(parts)
        self.numbers += weight.numel()
        self.num_bytes += sum(loader.stored_bytes(part) for part in parts)
        return Linear(weight, bias)


def check_room(
    outline: Outline,
    weights: Weights,
    options: ServerOptions,
    device: torch.device,
    dtypes: tuple[torch.dtype, torch.dtype],
    group: Group,
) -> None:
    """Raise OutOfMemory where the weights, and a KV cache for --max-total-tokens, cannot fit on the device.

    `dtypes` are those of the model and of the cache.
    """
    room = free_bytes(options, device, group)
    if room is None:
        return
    model, cache = map(cache_name, dtypes)
    form = memory.Form(model, cache, options.max_total_tokens or 0, _linear_bits(outline, weights, group))
    gpu, nodes = device.type == "cuda", group.size // group.size_here
    lack = memory.shortage(outline.size, form, room, device_name(device), group.size, gpu, nodes)
    if lack is not None:
        raise OutOfMemory(lack)


def _linear_bits(outline: Outline, weights: Weights, group: Group) -> float | None:
    """What a number in a linear layer will take; None where that is what the model's type does."""
    if isinstance(weights.quantization, FullPrecision):
        return None
    bits = registry.QUANTIZATION_METHODS[weights.method].bits
    # Those that stay packed take what they take in the files.
    packed = weights.checkpoint.num_bytes / group.size - outline.other_bytes
    return bits or max(8 * packed / outline.size.linear, 0.0)
