"""`textgen-server quantize`: make a GPTQ checkpoint of a model, and end. Started by launcher.py.

The model is computed on calibration text, layer by layer, and its linear layers rounded so that what they do to it
changes little; embeddings, norms and the output head stay as they are. What is written loads here, and in transformers,
without a flag. Ends with 0 when the new folder is there, 1 when it cannot be made, 2 when an option is wrong.
"""

import argparse
import logging
import shutil
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from textgen_server.adapters.merge import MergingLoader
from textgen_server.attention.select import choose
from textgen_server.errors import CheckpointError, ModelSourceError, StartupError
from textgen_server.layers.build import Builder
from textgen_server.models.config import ModelConfig, read_config
from textgen_server.parallel import Group
from textgen_server.quantization.calibrated import Calibrated
from textgen_server.quantization.gptq import BITS
from textgen_server.quantization.gptq_rounding import Rounding
from textgen_server.quantization.gptq_writing import quantization_config, tensors_of
from textgen_server.registry import FAMILIES
from textgen_server.runner.calibration import Calibration
from textgen_server.runner.load import choose_dtype, prepare_device
from textgen_server.runner.outline import survey
from textgen_server.settings import ServerOptions, ServerSettings, flag_of, parse
from textgen_server.telemetry import VERSION, configure_logging, report_failure
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.weights.checkpoint import Checkpoint
from textgen_server.weights.config_files import read_json, write_json
from textgen_server.weights.conversion import sync
from textgen_server.weights.local import small_files
from textgen_server.weights.progress import log_progress
from textgen_server.weights.shards import Shards
from textgen_server.weights.source import ModelFolder, locate

DONE, FAILED, WRONG_OPTION = 0, 1, 2

# Flags of the server that matter here; their environment variables do, too.
_SHARED = ("revision", "huggingface_hub_cache", "device", "cpu_threads", "json_output", "log_level")
_OWN_FILES = ("config.json", "quantize_config.json")

_log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> int:
    """Returns the exit code."""
    given = _parser().parse_args(args)
    shared = {name: getattr(given, name) for name in ("model_id", *_SHARED)}
    try:
        settings = parse([part for name, value in shared.items() if value for part in (flag_of(name), value)])
        how = Rounding(given.bits, given.groupsize, given.act_order, given.symmetric, given.percdamp)
        text = _read(given.calibration)
    except StartupError as error:
        report_failure(error)
        return WRONG_OPTION
    configure_logging(settings.log_level, settings.json_output)
    output = Path(given.output_dir).absolute()
    try:
        if output.exists():
            raise ModelSourceError(f"{output} exists already: give a new folder, or remove it")
        model = locate(settings.model_id, settings.revision, settings.huggingface_hub_cache, log_progress(_log))
        with torch.inference_mode():
            _publish(model, settings, how, _cut(text, model, given.samples, given.sequence_length), output)
    except StartupError as error:
        report_failure(error)
        return FAILED
    except OSError as error:
        report_failure(ModelSourceError(f"cannot write {output}: {error.strerror or error}"))
        return FAILED
    print(output)
    return DONE


def _publish(model: ModelFolder, settings: ServerSettings, how: Rounding, texts: list[list[int]], output: Path) -> None:
    """Write everything beside `output`, then put it in its place."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(model, settings, how, texts, partial)
        for path in [*partial.iterdir(), partial]:
            sync(path)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(model: ModelFolder, settings: ServerSettings, how: Rounding, texts: list[list[int]], folder: Path) -> None:
    config = read_config(model.path)
    raw = read_json(model.path, "config.json") or {}
    _refuse(config, raw)
    checkpoint = Checkpoint.open(model.path)
    shards = Shards(folder)
    packed = _quantize(model, settings, config, checkpoint, how, texts, shards)
    for name in sorted(checkpoint.names - packed):
        shards.add(name, checkpoint.tensor(name))
    shards.close()
    for path in small_files(model.path):
        if path.name not in _OWN_FILES:
            shutil.copyfile(path, folder / path.name)
    words = quantization_config(how, VERSION)
    write_json(folder, "config.json", raw | {"quantization_config": words})
    write_json(folder, "quantize_config.json", words)


def _quantize(
    model: ModelFolder,
    settings: ServerSettings,
    config: ModelConfig,
    checkpoint: Checkpoint,
    how: Rounding,
    texts: list[list[int]],
    shards: Shards,
) -> set[str]:
    """Hand the rounded matrices over to `shards`; returns their names."""
    device = prepare_device(settings, 0, 1)
    dtype = choose_dtype(settings, device)
    attention = choose(None, device.type, dtype, config.head_dim, config.family.encoder_decoder)
    survey(config, checkpoint, attention, dtype, Group())
    loader = MergingLoader.open(checkpoint, device, dtype, model.merge)
    build = Builder(loader, Group(), Calibrated(), attention)
    calibration = Calibration(config.family.load()(config, build), attention, texts, device, dtype)
    started = time.monotonic()
    packed: set[str] = set()
    for index, matrices in enumerate(calibration.rounded(how), 1):
        for name, block in matrices.items():
            for part, tensor in tensors_of(name.removesuffix(".weight"), block).items():
                shards.add(part, tensor)
        packed |= matrices.keys()
        seconds = time.monotonic() - started
        left = seconds / index * (config.num_layers - index)
        _log.info("quantizing %s: layer %d of %d, %.0f s left", model.name, index, config.num_layers, left)
    if model.merge is not None:
        loader.check_all_used(model.merge)
    _log_sizes(checkpoint, packed, how)
    return packed


def _refuse(config: ModelConfig, raw: dict[str, Any]) -> None:
    if config.family.encoder_decoder or config.family not in FAMILIES.values():
        raise CheckpointError(
            f"{config.model_type} cannot be quantized by GPTQ here, only decoders that are not run by transformers can"
        )
    if raw.get("quantization_config"):
        raise CheckpointError("config.json has a quantization_config: quantize the original model instead")


def _log_sizes(checkpoint: Checkpoint, packed: set[str], how: Rounding) -> None:
    """Say it where other programs could not read what is written: they pack whole words and groups."""
    odd = [
        name
        for name in sorted(packed)
        if any(size % 32 for size in checkpoint.shape(name))
        or (how.group_size != -1 and any(size % how.group_size for size in checkpoint.shape(name)[-1:]))
    ]
    if odd:
        _log.warning(
            "%d matrices, as %s of %s, are not made of whole groups and words: other programs may not read them",
            len(odd), odd[0], list(checkpoint.shape(odd[0])),
        )  # fmt: skip


def _read(file: str | None) -> str:
    """The calibration text. Raises StartupError when it cannot be read."""
    source = files("textgen_server.quantization") / "calibration.txt" if file is None else Path(file)
    try:
        return source.read_bytes().decode()
    except OSError as error:
        raise StartupError(f"--calibration: cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StartupError(f"--calibration: {file} is not UTF-8: byte {error.start}: {error.reason}") from None


def _cut(text: str, model: ModelFolder, most: int, length: int) -> list[list[int]]:
    """Pieces of the text, as tokens, each begun as prompts are; the last one may be shorter."""
    tokenizer = Tokenizer.load(model.path)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if not tokens:
        raise StartupError("--calibration: the text has no tokens")
    first = [id for id in tokenizer.encode("") if id == tokenizer.bos_id]
    length = max(min(length, read_config(model.path).max_positions) - len(first), 1)
    pieces = [first + tokens[start : start + length] for start in range(0, len(tokens), length)][:most]
    _log.info("calibrating with %d tokens of text, in pieces of %d", sum(map(len, pieces)), len(pieces[0]))
    return pieces


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "textgen-server quantize",
        description="Make a GPTQ checkpoint of a model. It is served without a flag, here and by transformers. "
        f"Ends with {DONE} when it is there, {FAILED} when it cannot be made, {WRONG_OPTION} when an option is wrong.",
    )
    parser.add_argument("model_id", metavar="MODEL", help=_help("model_id"))
    parser.add_argument("output_dir", metavar="OUTPUT", help="folder that is made, with all of the model's files")
    add = parser.add_argument
    add("--bits", type=int, choices=BITS, default=4, help="of each number. Default: 4")
    add(
        "--groupsize", type=_group_size, default=128, metavar="N",
        help="input features that share a scale; -1 for all of a matrix. Default: 128",
    )  # fmt: skip
    add("--act-order", action="store_true", help="round the strongest input features first: better, slower to serve")
    add(
        "--asymmetric", dest="symmetric", action="store_false",
        help="a zero of its own for each group, too: better, but fewer programs have fast kernels for it",
    )  # fmt: skip
    add(
        "--percdamp", type=_share, default=0.01, metavar="X",
        help="damping of the Hessian, as a share of its mean diagonal. Default: 0.01",
    )  # fmt: skip
    add("--calibration", metavar="FILE", help="text in UTF-8 like what the model will see. Default: some English prose")
    add("--samples", type=_count, default=128, metavar="N", help="pieces of text to use at most. Default: 128")
    add("--sequence-length", type=_count, default=512, metavar="N", help="tokens of a piece. Default: 512")
    for name in _SHARED:
        if ServerOptions.model_fields[name].annotation is bool:
            add(flag_of(name), nargs="?", const="true", metavar="true|false", help=_help(name))
        else:
            add(flag_of(name), metavar="VALUE", help=_help(name))
    return parser


def _group_size(value: str) -> int:
    size = int(value)
    if size < 1 and size != -1:
        raise argparse.ArgumentTypeError("must be -1 or above 0")
    return size


def _count(value: str) -> int:
    count = int(value)
    if count < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return count


def _share(value: str) -> float:
    share = float(value)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return share


def _help(name: str) -> str:
    return " ".join((ServerOptions.model_fields[name].description or "").split()).replace("%", "%%")
