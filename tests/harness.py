"""The engine without its processes: scheduler, blocks and runner in this one, for tests that compare texts."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Output
from textgen_server.engine.executor import Step
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


def logits(runner: Runner, tokens: list[int], adapter: str = "") -> torch.Tensor:
    """Logits [T, vocab] after every token of one prompt; after an encoder's, of its start token only."""
    start, encoded = runner.loaded.config.decoder_start_token, 0
    if start is not None:
        tokens, encoded = [*tokens, start], len(tokens)
    blocks = list(range(-(-len(tokens) // runner.layout.block_size)))
    long_rope, choice = runner.loaded.config.long_rope, Sample(SamplingParams(), 0)
    long = long_rope is not None and len(tokens) > long_rope.original
    item = Item(tokens, 0, blocks, choice, encoder_length=encoded, adapter=adapter, long=long)
    with torch.inference_mode():
        inputs = build(StepPlan([item], 0), runner.layout.block_size, runner.device, long_rope)
        if runner.loaded.adapters is not None:
            runner.loaded.adapters.use(inputs.adapters)
        model = runner.loaded.model
        hidden = model.forward(inputs.tokens, inputs.positions, inputs.batch, runner.caches)
        return model.logits(hidden[encoded:])


@dataclass(frozen=True)
class Run:
    """What became of prompts that ran together: their requests, the outputs of each, and how many were set back."""

    requests: list[Request]
    outputs: list[list[Output]]
    preemptions: int

    @property
    def texts(self) -> list[list[int]]:
        return [[output.token for output in outputs] for outputs in self.outputs]


def make_request(runner: Runner, key: int, prompt: list[int], max_new_tokens: int, *args, **kwargs) -> Request:
    """A request as the engine's service makes it, with the start token behind an encoder's prompt."""
    start = runner.loaded.config.decoder_start_token
    if start is None:
        return Request(key, list(prompt), max_new_tokens, *args, **kwargs)
    return Request(key, [*prompt, start], max_new_tokens, *args, encoder_length=len(prompt), **kwargs)


def run(
    runner: Runner,
    requests: list[Request],
    *,
    num_blocks: int | None = None,
    prefill: int | None = None,
    batch: int = 64,
    caching: bool = True,
    speculate: int = 0,
    ahead: int = 0,
) -> Run:
    """Run requests, whose keys are their indices, together until all have ended."""
    caching = caching and not runner.loaded.config.family.encoder_decoder
    blocks = BlockManager(num_blocks or runner.num_blocks, runner.layout.block_size, caching)
    total, config = blocks.num_blocks * blocks.block_size, runner.loaded.config
    long = config.long_rope.original if config.long_rope else 0
    chunk = prefill or runner.max_prefill_tokens
    limits = Limits(batch, chunk, total, speculate, long, config.family.restarts_long)
    scheduler = Scheduler(blocks, limits)
    for request in requests:
        scheduler.add(request)
    outputs: list[list[Output]] = [[] for _ in requests]
    under_way: deque[tuple[StepPlan, Step]] = deque()
    while (plan := scheduler.plan()) is not None or under_way:
        if plan is not None:
            under_way.append((plan, runner.launch(plan)))
        while len(under_way) > (ahead if plan is not None else 0):
            planned, step = under_way.popleft()
            for output in scheduler.commit(planned, step.result()).outputs:
                outputs[output.request.key].append(output)
    blocks.check_integrity([])
    return Run(requests, outputs, scheduler.counters.preemptions)


def generate(
    runner: Runner,
    prompts: list[list[int]],
    max_new_tokens: int,
    *,
    sampling: list[SamplingParams] | None = None,
    **how,
) -> list[list[int]]:
    """The generated tokens of prompts that run together."""
    params = sampling or [SamplingParams()] * len(prompts)
    requests = [make_request(runner, key, prompt, max_new_tokens, params[key]) for key, prompt in enumerate(prompts)]
    return run(runner, requests, **how).texts
