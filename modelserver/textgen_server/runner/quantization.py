"""Which quantization method reads a checkpoint: the flag's, or the one that the checkpoint itself was quantized by."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgen_server.errors import CheckpointError, StartupError
from textgen_server.layers.linear import FullPrecision
from textgen_server.models.config import ModelConfig, section
from textgen_server.quantization.base import Quantization
from textgen_server.quantization.grouped import Grouped
from textgen_server.quantization.keep_packed import Holder, KeepPacked
from textgen_server.quantization.scaled import Scaled
from textgen_server.quantization.scaled_linear import scaled_layers
from textgen_server.quantization.unpacked import Block, Packing, Unpacked
from textgen_server.registry import QUANTIZATION_METHODS as METHODS
from textgen_server.settings import ServerOptions
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.config_files import read_json

# Where AutoGPTQ and AutoAWQ have put what config.json does not say, and the method that such a file is about.
_OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_OLDER_MARKS = ("qweight",)


@dataclass(frozen=True)
class Weights:
    """A checkpoint as matrices, and how layers hold them.

    Attributes:
        outline: the checkpoint again, where reading a packed matrix costs nothing and gives its shape alone.
        method: the quantization method's name; "" for none.
    """

    checkpoint: Checkpoint
    outline: Checkpoint
    quantization: Quantization
    method: str


def open_weights(
    options: ServerOptions, folder: Path, config: ModelConfig, device: torch.device, merged: bool
) -> Weights:
    """Open the checkpoint in `folder` for `device`. Weights that an adapter is to be `merged` into do not stay packed.

    Raises:
        CheckpointError: files are damaged, or quantized in a way that cannot be read.
        StartupError: --quantize contradicts the checkpoint, or needs a library that is absent.
    """
    checkpoint = Checkpoint.open(folder)
    packing = _packing(options, folder, config, checkpoint)
    if packing is None:
        return Weights(checkpoint, checkpoint, _as_it_loads(options), options.quantize or "")
    method, packing_of_it = packing
    # GPT-2's layers ask for matrices the other way round, which is how packed ones never are.
    transposed = getattr(config.family.load(), "transposed", False)
    whole, outline = (Unpacked(checkpoint, packing_of_it, transposed, values) for values in (True, False))
    quantization = FullPrecision() if merged else _as_stored(whole, device)
    return Weights(whole, outline, quantization, method)


def _as_stored(checkpoint: Unpacked, device: torch.device) -> Quantization:
    """Weights of 8 bits stay so. Groups do on GPUs; on the CPU, memory is cheap and dequantizing them at every step is
    not."""
    holders: dict[type[Block], Holder] = {Scaled: scaled_layers}
    if device.type != "cpu" and importlib.util.find_spec("triton") is not None:
        from textgen_server.quantization.grouped_linear import grouped_layers  # needs Triton

        holders[Grouped] = grouped_layers
    return KeepPacked(FullPrecision(), holders) if checkpoint.kinds & holders.keys() else FullPrecision()


def _packing(
    options: ServerOptions, folder: Path, config: ModelConfig, checkpoint: Checkpoint
) -> tuple[str, Packing] | None:
    """The stored method's name, and how it packs; None where the checkpoint is in full precision."""
    fields, where, method = _stored_config(folder, config, checkpoint)
    if not fields:
        if options.quantize and METHODS[options.quantize].stored:
            raise StartupError(
                f"--quantize {options.quantize} needs a checkpoint that {options.quantize} has quantized, and "
                f"{folder / 'config.json'} has no quantization_config; choose --quantize bitsandbytes-nf4 to quantize "
                "this one as it loads"
            )
        return None
    name = next((name for name, entry in METHODS.items() if method in entry.checkpoints), None)
    if name is None:
        raise CheckpointError(
            f"{where}: weights quantized by {method!r} cannot be read; "
            "serve a checkpoint in full precision, with --quantize to quantize it as it loads"
        )
    if options.quantize not in (None, name):
        raise StartupError(
            f"--quantize {options.quantize} does not fit the checkpoint, whose weights {method} has quantized "
            f"({where}); leave the flag out"
        )
    packing: Packing = METHODS[name].load_packing().from_config(fields, where)
    if not _has_any(checkpoint, packing.marks):
        raise CheckpointError(
            f"{where} says that {method} has quantized the weights, and no tensor is called "
            f"{' or '.join(f'*.{mark}' for mark in packing.marks)}: remove quantization_config if they are in full "
            "precision"
        )
    return name, packing


def _stored_config(folder: Path, config: ModelConfig, checkpoint: Checkpoint) -> tuple[dict[str, Any], str, str]:
    """The checkpoint's quantization_config, empty where there is none; its place; the method's name."""
    fields = section(config.raw, "quantization_config")
    if fields:
        return fields, "config.json: quantization_config", _method(fields)
    if _has_any(checkpoint, _OLDER_MARKS):
        for file, method in _OLDER_FILES.items():
            if fields := read_json(folder, file) or {}:
                return fields, file, str(fields.get("quant_method") or method)
    return {}, "", ""


def _method(fields: dict[str, Any]) -> str:
    """The `quant_method`; AutoGPTQ says beside it when it has changed the layout to Marlin's."""
    in_marlin = fields.get("is_marlin_format") or fields.get("checkpoint_format") == "marlin"
    return "marlin" if in_marlin else str(fields.get("quant_method"))


def _has_any(checkpoint: Checkpoint, suffixes: tuple[str, ...]) -> bool:
    return any(name.endswith(tuple(f".{suffix}" for suffix in suffixes)) for name in checkpoint.names)


def _as_it_loads(options: ServerOptions) -> Quantization:
    if options.quantize is None:
        return FullPrecision()
    entry = METHODS[options.quantize]
    try:
        method: Quantization = entry.load()()
    except ImportError as error:
        raise StartupError(
            f"--quantize {options.quantize} cannot be used here ({error}): pip install 'textgen[{entry.extra}]'"
        ) from None
    return method
