"""Build a rank's model: choose device, numbers, attention and quantization, then read the weights."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from textgen_server.adapters.merge import MergingLoader
from textgen_server.attention.base import Attention
from textgen_server.attention.select import choose
from textgen_server.errors import OutOfMemory, StartupError
from textgen_server.layers.build import Builder
from textgen_server.layers.lora import AdapterRows
from textgen_server.models.base import CausalModel
from textgen_server.models.config import ModelConfig, read_config
from textgen_server.native import library as native
from textgen_server.parallel import Group
from textgen_server.runner.adapters import Adapters
from textgen_server.runner.outline import check_room, survey
from textgen_server.runner.quantization import open_weights
from textgen_server.runner.room import device_name
from textgen_server.settings import ServerOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, and what was chosen for it. `adapters` is None where it cannot take any."""

    model: CausalModel
    adapters: Adapters | None
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    attention: type[Attention]
    quantize: str


def prepare_device(options: ServerOptions, rank: int, size: int) -> torch.device:
    """The device of rank number `rank` of the `size` on this machine, with its threads set. Raises StartupError where
    there is no such GPU."""
    kind = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        torch.set_num_threads(options.cpu_threads or max(1, cores // size))
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if not gpus:
        raise StartupError("--device cuda needs a GPU, and this process sees none; choose --device cpu or give it one")
    if rank >= gpus:
        raise StartupError(
            f"--num-shard {size} needs {size} GPUs, and this process sees {gpus}; lower it or give it more GPUs"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def choose_dtype(options: ServerOptions, device: torch.device) -> torch.dtype:
    """The user's choice, else float32 on the CPU and bfloat16 or float16 on GPUs."""
    if options.dtype:
        dtype: torch.dtype = getattr(torch, options.dtype)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def choose_cache_dtype(options: ServerOptions, dtype: torch.dtype) -> torch.dtype:
    """The user's choice for the KV cache, else the model's type."""
    if options.kv_cache_dtype == "auto":
        return dtype
    cache_dtype: torch.dtype = getattr(torch, options.kv_cache_dtype.replace("fp8", "float8"))
    return cache_dtype


def load_model(
    options: ServerOptions, folder: Path, device: torch.device, group: Group, merge: Path | None = None
) -> LoadedModel:
    """Read the checkpoint in `folder` into a model of its family; `merge` is a LoRA adapter to add to the weights.

    Raises:
        CheckpointError: the family is unknown, or files are damaged or incomplete.
        OutOfMemory: the weights do not fit on the device.
    """
    started = time.monotonic()
    if device.type == "cpu":
        native.use()
    config = read_config(folder, options.trust_remote_code)
    dtype = choose_dtype(options, device)
    relative = config.family.encoder_decoder
    cache_dtype = choose_cache_dtype(options, dtype)
    attention = choose(options.attention_backend, device.type, dtype, config.head_dim, relative, cache_dtype)
    weights = open_weights(options, folder, config, device, merge is not None)
    checkpoint = weights.checkpoint
    rows = AdapterRows() if options.takes_adapters else None
    outline = survey(config, weights.outline, attention, dtype, group)
    check_room(outline, weights, options, device, (dtype, cache_dtype), group)
    transfer = outline.transfer(config, group)
    loader = MergingLoader.open(checkpoint, device, dtype, merge, transfer)
    build = Builder(loader, group, weights.quantization, attention, rows)
    try:
        with torch.inference_mode():
            model: CausalModel = config.family.load()(config, build)
        if merge is not None:
            loader.check_all_used(merge)
    except torch.OutOfMemoryError:
        raise OutOfMemory(
            f"the weights do not fit into what other processes leave of {device_name(device)}: raise --num-shard, or "
            "choose a --quantize with fewer bits"
        ) from None
    transfer.report()
    seconds = time.monotonic() - started
    _log.info(
        "loaded %s, %.2f GB from %s in %.1f s (%s, %s, %s)",
        config.model_type, checkpoint.num_bytes / 1e9, folder, seconds, device_name(device), dtype,
        f"quantized by {weights.method}" if weights.method else "not quantized",
    )  # fmt: skip
    adapters = Adapters(cast(nn.Module, model), checkpoint, rows, device, dtype) if rows is not None else None
    return LoadedModel(model, adapters, config, device, dtype, cache_dtype, attention, weights.method)
