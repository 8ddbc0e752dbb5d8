"""Time to load a checkpoint into a model that can run, beside the plain library's and a copy in memory.

usage: python bench/loading.py [FOLDER] [--random-gb 2.2] [--dtype float32] [--rounds 3]

Without FOLDER, a random checkpoint in bfloat16 of Llama's shape is made in a temporary folder first. Each way has a
process of its own, in turn, and finds the files in the page cache:

- textgen: `load_model`, with the layers' weights packed for oneDNN where the device is the CPU
- safetensors: `load_file`, then each tensor copied to the type and device; no model is built
- copy: as many bytes as the model has in that type, copied from memory to fresh memory of the device
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COPIED = 1 << 26
WAYS = ("textgen", "safetensors", "copy")
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 4, 32000


def make_checkpoint(folder: Path, gigabytes: float) -> Path:
    """A random Llama of about that size, in two files."""
    import torch
    from safetensors.torch import save_file

    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN), "mlp.down_proj": (HIDDEN, INTERMEDIATE), "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }  # fmt: skip
    per_layer = 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    layers = max(1, round((gigabytes * 1e9 - 4 * VOCABULARY * HIDDEN) / per_layer))
    noise = torch.randn(1 << 20).bfloat16() * 0.02

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return noise.repeat(-(-count // len(noise)))[:count].view(shape)

    tensors = {
        f"model.layers.{i}.{name}.weight": random(shape) for i in range(layers) for name, shape in shapes.items()
    }
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    tensors |= {name: random(shape) for name, shape in {**ends, "model.norm.weight": (HIDDEN,)}.items()}
    names = list(tensors)
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in chosen}, folder / f"model-{part}.safetensors")
    config = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(way: str, folder: Path, dtype_name: str) -> dict[str, float]:
    """Seconds that `way` takes, and gigabytes of the result."""
    import torch
    from safetensors.torch import load_file

    from textgen_server.parallel import Group
    from textgen_server.runner.load import load_model, prepare_device
    from textgen_server.settings import ServerOptions

    options = ServerOptions(dtype=dtype_name)
    device, dtype = prepare_device(options, 0, 1), getattr(torch, dtype_name)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        file.read_bytes()  # into the page cache
    size = sum(t.numel() for file in files for t in load_file(file).values()) * dtype.itemsize
    source = torch.ones(COPIED // 4) if way == "copy" else torch.empty(0)
    torch.set_grad_enabled(False)
    started = time.perf_counter()
    if way == "textgen":
        kept: object = load_model(options, folder, device, Group())
    elif way == "safetensors":
        kept = [{name: t.to(device, dtype, copy=True) for name, t in load_file(file).items()} for file in files]
    else:
        kept = [source.to(device, copy=True) for _ in range(round(size / COPIED))]
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    del kept
    return {"seconds": seconds, "gigabytes": size / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--random-gb", type=float, default=2.2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help="what one of the processes does")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(load(args.only, args.folder, args.dtype)))
        return
    with tempfile.TemporaryDirectory() as temp:
        folder = args.folder or make_checkpoint(Path(temp), args.random_gb)
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, str(folder), "--dtype", args.dtype, "--only", way]
                results[way].append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
    for way, runs in results.items():
        seconds, size = [run["seconds"] for run in runs], runs[0]["gigabytes"]
        middle, best = statistics.median(seconds), min(seconds)
        print(f"{way:12} {middle:6.2f} s, best {best:.2f}, {size / best:.2f} GB/s of {size:.2f} GB in {args.dtype}")


if __name__ == "__main__":
    main()
