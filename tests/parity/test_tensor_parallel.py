"""Several ranks compute what one computes, also where nothing divides: every family over gloo, in processes, and every
shape over threads, which start at once."""

import secrets
import tempfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from harness import logits, make_request, make_runner, run
from shapes import SHAPES, Shape, save_checkpoint
from thread_ranks import on_ranks

from textgen_server import parallel
from textgen_server.runner.runner import Runner
from textgen_server.runner.worker import ShardedExecutor, accept_workers, obey
from textgen_server.settings import ServerOptions

PROMPTS = [[5, 9, 17, 80, 3], [7] * 20, list(range(3, 60))]
FIRST_SHAPES = {family: next(iter(shapes.values())) for family, shapes in SHAPES.items()}


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
        self.execute = ShardedExecutor(runner, workers).execute
        self.num_blocks, self.layout, self.loaded = runner.num_blocks, runner.layout, runner.loaded
        self.max_prefill_tokens = runner.max_prefill_tokens


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_together_write_what_one_writes_alone(size: int, tmp_path: Path):
    # 6 query heads and 2 KV heads: whole KV heads per rank for 2 ranks, a shared one for 3; vocabulary 131 divides by
    # neither, nor does the MLP's 80 by 3.
    folders = {family: save_checkpoint(shape, tmp_path / family) for family, shape in FIRST_SHAPES.items()}
    alone = {name: texts_and_scores(make_runner(folder, block_size=8)) for name, folder in folders.items()}
    context = get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as temp:
        arguments = (size, folders, Path(temp), secrets.token_bytes(8), results)
        ranks = [context.Process(target=run_rank, args=(rank, *arguments)) for rank in range(size)]
        for rank in ranks:
            rank.start()
        try:
            together = dict(results.get(timeout=120) for _ in folders)
            for rank in ranks:
                rank.join(30)
        finally:
            for rank in ranks:
                rank.kill()
    for name, (texts, scores) in alone.items():
        assert together[name][0] == texts
        assert together[name][1] == pytest.approx(scores, abs=1e-4)
    assert [rank.exitcode for rank in ranks] == [0] * size


ALL_SHAPES = {f"{family}: {name}": shape for family, shapes in SHAPES.items() for name, shape in shapes.items()}


@pytest.mark.parametrize("shape", ALL_SHAPES.values(), ids=ALL_SHAPES)
def test_the_logits_are_the_same_on_any_number_of_ranks(shape: Shape, tmp_path: Path):
    save_checkpoint(shape, tmp_path)
    tokens = torch.randint(3, 131, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    alone = logits(make_runner(tmp_path, block_size=8), tokens)
    options = ServerOptions(device="cpu", cpu_kv_cache_gib=0.05, block_size=8, cpu_threads=1)
    for size in (2, 4):
        everyones = on_ranks(size, lambda group: logits(Runner(options, tmp_path, torch.device("cpu"), group), tokens))
        for theirs in everyones:
            torch.testing.assert_close(theirs, alone, rtol=1e-4, atol=1e-4)
