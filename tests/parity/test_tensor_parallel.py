"""Several ranks compute what one computes, also where nothing divides: every family over gloo, in processes, and every
shape over threads, which start at once."""

import secrets
import tempfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from harness import logits, make_runner
from process_ranks import run_rank, texts_and_scores
from shapes import SHAPES, Shape, save_checkpoint
from thread_ranks import on_ranks

from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions

FIRST_SHAPES = {family: next(iter(shapes.values())) for family, shapes in SHAPES.items()}


@pytest.mark.parametrize(("size", "families"), [(2, tuple(FIRST_SHAPES)), (4, ("llama", "falcon", "bloom", "t5"))])
def test_ranks_together_write_what_one_writes_alone(size: int, families: tuple[str, ...], tmp_path: Path):
    # 6 query heads, and 2 KV heads, one, or 6: whole KV heads for each of 2 ranks, shared ones for 4, or not the same
    # number for each; the vocabulary of 131 divides by neither.
    folders = {family: save_checkpoint(FIRST_SHAPES[family], tmp_path / family) for family in families}
    alone = {name: texts_and_scores(make_runner(folder, block_size=8)) for name, folder in folders.items()}
    context = get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as temp:
        arguments = (size, folders, Path(temp), secrets.token_bytes(8), results)
        ranks = [context.Process(target=run_rank, args=(rank, *arguments)) for rank in range(size)]
        for rank in ranks:
            rank.start()
        try:
            together = dict(results.get(timeout=250) for _ in folders)
            for rank in ranks:
                rank.join(60)
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
    for size in (2, 3, 4):
        everyones = on_ranks(size, lambda group: logits(Runner(options, tmp_path, torch.device("cpu"), group), tokens))
        for theirs in everyones:
            torch.testing.assert_close(theirs, alone, rtol=1e-4, atol=1e-4)
