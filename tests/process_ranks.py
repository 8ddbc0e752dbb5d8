"""Ranks that are processes with gloo between them. Their module imports no transformers, which would take each of them
longer than all else that they do."""

from pathlib import Path

import torch
from harness import make_request, run

from textgen_server import parallel
from textgen_server.runner.pipes import accept_workers
from textgen_server.runner.runner import Runner
from textgen_server.runner.worker import ShardedExecutor, obey
from textgen_server.settings import ServerOptions

PROMPTS = [[5, 9, 17, 80, 3], [7] * 20, list(range(3, 60))]


def texts_and_scores(runner) -> tuple[list[list[int]], list[float]]:
    requests = [make_request(runner, key, p, 16, wants_prompt_logprobs=key == 2) for key, p in enumerate(PROMPTS)]
    result = run(runner, requests)
    return result.texts, result.requests[2].prompt_scores.logprobs


def run_rank(rank: int, size: int, folders: dict[str, Path], temp: Path, secret: bytes, results) -> None:
    """One rank of `size`: serve every folder in turn; rank 0 puts the texts into `results`."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    group = parallel.join(rank, size, f"file://{temp}/rendezvous", device)
    for name, folder in folders.items():
        runner = Runner(ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8), folder, device, group)
        pipe = temp / name
        if rank:
            obey(runner, pipe, secret)
        else:
            workers = accept_workers(pipe, secret, size - 1)
            runner_and_workers = Sharded(runner, workers)
            results.put((name, texts_and_scores(runner_and_workers)))
            for worker in workers:
                worker.close()
    parallel.leave(group)


class Sharded:
    """A runner whose steps all ranks take, in the shape that `generate` wants."""

    def __init__(self, runner: Runner, workers) -> None:
        self.launch = ShardedExecutor(runner, workers).launch
        self.num_blocks, self.layout, self.loaded = runner.num_blocks, runner.layout, runner.loaded
        self.max_prefill_tokens = runner.max_prefill_tokens
