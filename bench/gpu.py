"""Everything about speed on one GPU, within eight minutes, without a network: random weights of Mistral-7B's shape.

    python bench/gpu.py                      all of it: a table, and $OUT/gpu.json and $OUT/gpu.md where OUT is set
    python bench/gpu.py --parts gptq,idle
    python bench/gpu.py --tiny               a tiny shape, on the CPU too, to see that it runs

Needs torch, what the server imports (pydantic-settings, safetensors), and the server: installed, or found by
PYTHONPATH=modelserver.

Each part is a process with a time limit of its own; what one got before it failed counts, and the others go on.
`limit` is what bytes over the bandwidth of a copy, or operations over the speed of a matrix product, allow, both
measured in the same run. Targets are for an H100; an H200's are shorter in proportion to the bandwidth.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gpu_kernels
import gpu_parts
import torch
from gpu_model import MISTRAL, TINY, write_checkpoint
from gpu_parts import Bench, Result

SECONDS = 480


def checkpoints(bench: Bench) -> Iterator[Result]:
    """Write the weights to files."""
    started = time.perf_counter()
    write_checkpoint(bench.folder / "full", bench.shape, bench.dtype)
    write_checkpoint(bench.folder / "gptq", bench.shape, bench.dtype, gptq=True)
    yield {"what": "writing checkpoints", "value": time.perf_counter() - started, "unit": "s"}


# Name -> what it measures, and its time limit in seconds.
PARTS: dict[str, tuple[Callable[[Bench], Iterator[Result]], int]] = {
    "ceilings": (gpu_parts.ceilings, 60),
    "checkpoints": (checkpoints, 120),
    "full": (partial(gpu_parts.serving, method=None), 120),
    "gptq": (partial(gpu_parts.serving, method="gptq"), 75),
    "idle": (gpu_parts.idle, 75),
    "peer": (gpu_parts.peer, 90),
    "attention": (gpu_kernels.attention, 60),
    "fp8": (partial(gpu_parts.serving, method="fp8"), 60),
    "eetq": (partial(gpu_parts.serving, method="eetq"), 60),
    "bitsandbytes-nf4": (partial(gpu_parts.serving, method="bitsandbytes-nf4"), 60),
    "kernels": (partial(gpu_kernels.kernels, method=None), 45),
    "kernels-gptq": (partial(gpu_kernels.kernels, method="gptq"), 45),
    "loading": (gpu_parts.loading, 60),
}
NEED_CUDA = ("idle", "peer", "attention", "kernels", "kernels-gptq")
FIRST = ("ceilings", "checkpoints")
"""The others need them."""

# (part, what) -> at most, on an H100.
TARGETS = {
    ("full", "decode, batch 1"): 5.3,
    ("full", "decode, batch 32"): 7.0,
    ("full", "decode, batch 256"): 18.5,
    ("full", "prefill of 8192"): 205.0,
    ("full", "ready, from the start of the process"): 10.0,
    ("gptq", "decode, batch 1"): 1000 / 510,
    **{("idle", f"idle between steps, batch {batch}"): 1.0 for batch in (1, 8, 32, 128, 256)},
}
PEER_RATIO = 2.3
H200 = 3.35 / 4.8
"""Nominal bandwidths."""


def make_bench(args: argparse.Namespace) -> Bench:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    limits = {"bandwidth": args.bandwidth, "flops": args.flops}
    if args.tiny:
        return Bench(TINY, args.folder, device, dtype, [1, 4], 32, 8, 96, **limits)
    return Bench(MISTRAL, args.folder, device, dtype, [1, 8, 32, 128, 256], 1024, 32, 8192, **limits)


def run_here(args: argparse.Namespace) -> None:
    """Measure one part, a line of JSON for each result."""
    torch.set_grad_enabled(False)
    for result in PARTS[args.part][0](make_bench(args)):
        if result["what"] == "start of the engine, after imports":
            ready = {"what": "ready, from the start of the process", "value": time.time() - args.spawned, "unit": "s"}
            print(json.dumps(ready), flush=True)
        print(json.dumps(result), flush=True)


def measure(part: str, args: argparse.Namespace, found: list[Result], seconds: float) -> list[Result]:
    """Results of a part in a process of its own, of `seconds` at most."""
    ceilings = {r["unit"]: r["value"] for r in found if r["part"] == "ceilings" and "value" in r}
    command = [
        sys.executable, __file__, "--part", part, "--folder", str(args.folder), "--spawned", str(time.time()),
        "--bandwidth", str(ceilings.get("GB/s", 0) * 1e9), "--flops", str(ceilings.get("TFLOP/s", 0) * 1e12),
        *(["--tiny"] if args.tiny else []),
    ]  # fmt: skip
    trouble = ""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        try:
            done = subprocess.run(command, stdout=out, stderr=log, timeout=seconds)
            log.seek(0)
            lines = log.read().strip().splitlines()
            if done.returncode:
                trouble = lines[-1] if lines else f"exit code {done.returncode}"
            warnings = [line for line in lines if "WARNING" in line.upper() or "CUDA graphs" in line]
        except subprocess.TimeoutExpired:
            trouble, warnings = f"it took more than {seconds:.0f} s", []
        out.seek(0)
        results: list[Result] = [json.loads(line) for line in out if line.startswith("{")]
    results += [{"what": "log", "error": line} for line in warnings[:5]]
    if trouble:
        results.append({"what": "the part failed", "error": trouble})
    return [{"part": part, **result} for result in results]


def judged(results: list[Result], device: str, tiny: bool) -> list[Result]:
    """The results with their targets, and what follows from several of them."""
    values = {(result["part"], result["what"]): result["value"] for result in results if "value" in result}
    for result in results:
        target = None if tiny or device == "cpu" else TARGETS.get((result["part"], result["what"]))
        if target is not None:
            scaled = target * H200 if "H200" in device and result["unit"].startswith("ms") else target
            result["target"] = round(scaled, 2)
    ours = [value for (part, what), value in values.items() if part == "full" and what.endswith("requests together")]
    theirs = values.get(("peer", "transformers, continuous batching"))
    if ours and theirs:
        ratio = {"what": "ours to transformers' continuous batching", "value": ours[0] / theirs, "unit": "times"}
        results.append({"part": "peer", **ratio, "at_least": PEER_RATIO})
    return results


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = ["| part | what | measured | limit | of limit | target |", "|---|---|---|---|---|---|"]
    for result in results:
        if "error" in result:
            lines.append(f"| {result['part']} | {result['what']} | {result['error']} | | | |")
            continue
        limit, share, target = "", "", ""
        if result.get("limit"):
            limit, share = f"{result['limit']:.3g}", f"{result['limit'] / result['value']:.0%}"
        if "target" in result:
            target = f"at most {result['target']:.3g}: {'met' if result['value'] <= result['target'] else 'MISSED'}"
        if "at_least" in result:
            target = f"at least {result['at_least']}: {'met' if result['value'] >= result['at_least'] else 'MISSED'}"
        measured = f"{result['value']:.4g} {result['unit']}"
        lines.append(f"| {result['part']} | {result['what']} | {measured} | {limit} | {share} | {target} |")
    return "\n".join(lines)


def run_all(args: argparse.Namespace) -> None:
    deadline = time.monotonic() + SECONDS
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    wanted = [*FIRST, *(part for part in (args.parts or PARTS) if part not in FIRST)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        args.folder = args.folder or Path(folder)
        for part in wanted:
            left = deadline - time.monotonic()
            if part in NEED_CUDA and not torch.cuda.is_available():
                results.append({"part": part, "what": "left out", "error": "it needs CUDA"})
            elif left < 5:
                results.append({"part": part, "what": "left out", "error": f"{SECONDS} s are over"})
            else:
                started = time.monotonic()
                results += measure(part, args, results, min(PARTS[part][1], left))
                print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    results = judged(results, device, args.tiny)
    report = f"{device}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n\n{table(results)}\n"
    print(report)
    if "OUT" in os.environ:
        out = Path(os.environ["OUT"])
        (out / "gpu.md").write_text(report)
        (out / "gpu.json").write_text(json.dumps({"device": device, "results": results}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: a temporary folder")
    for name in ("bandwidth", "flops", "spawned"):
        parser.add_argument(f"--{name}", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.parts or ()) - set(PARTS):
        parser.error(f"there is no part {min(unknown)}; choose among {', '.join(PARTS)}")
    run_here(args) if args.part else run_all(args)


if __name__ == "__main__":
    main()
