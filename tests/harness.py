"""The engine without its processes: scheduler, blocks and runner in this one, for tests that compare texts."""

from pathlib import Path

import torch

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.parallel import Group
from textgen_server.runner.inputs import build
from textgen_server.runner.runner import Runner
from textgen_server.sampling import SamplingParams
from textgen_server.settings import ServerOptions


def make_runner(folder: Path, **options) -> Runner:
    settings = ServerOptions(model_id=str(folder), **{"device": "cpu", "cpu_kv_cache_gib": 0.05, **options})
    return Runner(settings, folder, torch.device(settings.device), Group())


def logits(runner: Runner, tokens: list[int]) -> torch.Tensor:
    """Logits [T, vocab] after every token of one prompt."""
    blocks = list(range(-(-len(tokens) // runner.layout.block_size)))
    plan = StepPlan([Item(tokens, 0, blocks, Sample(SamplingParams(), 0))], 0)
    with torch.inference_mode():
        inputs = build(plan, runner.layout.block_size, runner.device)
        model = runner.loaded.model
        return model.logits(model.forward(inputs.tokens, inputs.positions, inputs.batch, runner.caches))


def generate(
    runner: Runner,
    prompts: list[list[int]],
    max_new_tokens: int,
    *,
    num_blocks: int | None = None,
    prefill: int | None = None,
    batch: int = 64,
    sampling: list[SamplingParams] | None = None,
    caching: bool = True,
) -> list[list[int]]:
    """Run the prompts together until all have their tokens; returns the generated ones."""
    blocks = BlockManager(num_blocks or runner.num_blocks, runner.layout.block_size, caching)
    limits = Limits(batch, prefill or runner.max_prefill_tokens, blocks.num_blocks * blocks.block_size)
    scheduler = Scheduler(blocks, limits)
    for key, prompt in enumerate(prompts):
        params = sampling[key] if sampling else SamplingParams()
        scheduler.add(Request(key, list(prompt), max_new_tokens, params))
    texts: list[list[int]] = [[] for _ in prompts]
    while (plan := scheduler.plan()) is not None:
        for output in scheduler.commit(plan, runner.execute(plan)):
            texts[output.request.key].append(output.token)
    blocks.check_integrity([])
    generate.preemptions = scheduler.counters.preemptions
    return texts
