"""What gpu.py measures, each part in a process of its own. A part yields its results as it gets them."""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from gpu_model import Shape

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Events
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.parallel import Group
from textgen_server.runner.load import prepare_device
from textgen_server.runner.runner import Runner
from textgen_server.settings import ServerOptions

Result = dict[str, Any]
"""`what`, `value` and `unit`; perhaps `limit`, which physics sets, in the same unit."""


@dataclass(frozen=True)
class Bench:
    """What parts share.

    Attributes:
        folder: of checkpoints, one for each method that needs its own.
        bandwidth, flops: bytes per second of a copy and operations per second of a matrix product, measured here.
    """

    shape: Shape
    folder: Path
    device: torch.device
    dtype: torch.dtype
    batches: list[int]
    context: int
    steps: int
    prompt: int
    bandwidth: float = 0.0
    flops: float = 0.0

    def runner(self, method: str | None = None) -> Runner:
        folder = self.folder / ("gptq" if method == "gptq" else "full")
        options = ServerOptions(
            model_id=str(folder), device=self.device.type, dtype=str(self.dtype).removeprefix("torch."),
            quantize=None if method == "gptq" else method, max_batch_size=max(self.batches),
            cpu_kv_cache_gib=0.25, cuda_memory_fraction=0.85,
        )  # fmt: skip
        prepare_device(options, 0, 1)
        return Runner(options, folder, self.device, Group())


class Job:
    """Requests that start together on an engine's own loop, and when each step brought how many tokens."""

    def __init__(self, runner: Runner, requests: int, context: int, new_tokens: int, vocabulary: int) -> None:
        rng = random.Random(0)
        limits = Limits(1024, runner.max_prefill_tokens, runner.loaded.config.max_positions)
        self._scheduler = Scheduler(BlockManager(runner.num_blocks, runner.layout.block_size, False), limits)
        self._loop = EngineLoop(self._scheduler, runner, self._published)
        self._watch: Callable[[int], None] = lambda step: None
        self._requests = requests
        self.moments: list[tuple[float, int]] = []
        for key in range(requests):
            prompt = [rng.randrange(vocabulary) for _ in range(context)]
            self._loop.submit(Request(key, prompt, max_new_tokens=new_tokens))

    def _published(self, events: Events) -> None:
        self.moments.append((time.perf_counter(), len(events.outputs)))
        if self.moments[-1][1] == self._requests:
            self._watch(sum(count == self._requests for _, count in self.moments))
        if not len(self._scheduler):
            self._loop.stop()

    def run(self, watch: Callable[[int], None] = lambda step: None) -> float:
        """Seconds until all have ended. `watch` hears of each step of all requests, by its number from 1."""
        self._watch = watch
        started = time.perf_counter()
        self._loop.run()
        return time.perf_counter() - started

    @property
    def step_seconds(self) -> list[float]:
        """Of the steps in which all requests decoded."""
        return [
            later - earlier
            for (earlier, before), (later, count) in pairwise(self.moments)
            if before == count == self._requests
        ][2:]


def _steps_until_all_decode(bench: Bench, runner: Runner, batch: int) -> int:
    return -(-batch * bench.context // runner.max_prefill_tokens)


def ceilings(bench: Bench) -> Iterator[Result]:
    """What a copy and a matrix product reach."""
    large = bench.device.type == "cuda"
    source = torch.randn((1 << 30) if large else (1 << 22), device=bench.device)
    target = torch.empty_like(source)
    seconds = timed(lambda: target.copy_(source), bench.device)
    yield {"what": "copy", "value": 2 * source.nbytes / seconds / 1e9, "unit": "GB/s"}
    side = 8192 if large else 512
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    seconds = timed(lambda: a @ b, bench.device)
    yield {"what": f"{side} x {side} matrix product", "value": 2 * side**3 / seconds / 1e12, "unit": "TFLOP/s"}


def serving(bench: Bench, method: str | None) -> Iterator[Result]:
    """Start, decode steps at every batch size, and in full precision a long prompt and the job of `peer`."""
    started = time.perf_counter()
    runner = bench.runner(method)
    yield {"what": "start of the engine, after imports", "value": time.perf_counter() - started, "unit": "s"}
    itemsize = bench.dtype.itemsize
    for batch in bench.batches:
        tokens = batch * (bench.context + bench.steps)
        if tokens > runner.num_blocks * runner.layout.block_size:
            yield {"what": f"decode, batch {batch}", "error": f"the KV cache does not hold {tokens} tokens"}
            continue
        new = _steps_until_all_decode(bench, runner, batch) + bench.steps
        job = Job(runner, batch, bench.context, new, bench.shape.vocabulary)
        job.run()
        if not job.step_seconds:
            yield {"what": f"decode, batch {batch}", "error": "there was no step in which all decoded"}
            continue
        least = bench.shape.decode_bytes(method, itemsize, batch, bench.context) / bench.bandwidth
        seconds = statistics.median(job.step_seconds)
        yield {"what": f"decode, batch {batch}", "value": seconds * 1e3, "unit": "ms/step", "limit": least * 1e3}
    if method is None:
        yield from _prompts(bench, runner)
        seconds = Job(runner, *_job(bench), bench.shape.vocabulary).run()
        requests, _, new = _job(bench)
        yield {"what": f"{requests} requests together", "value": requests * new / seconds, "unit": "tokens/s"}


def _prompts(bench: Bench, runner: Runner) -> Iterator[Result]:
    seconds = min(Job(runner, 1, bench.prompt, 1, bench.shape.vocabulary).run() for _ in range(3))
    least = bench.shape.prefill_flops(bench.prompt) / bench.flops
    yield {"what": f"prefill of {bench.prompt}", "value": seconds * 1e3, "unit": "ms", "limit": least * 1e3}


def _job(bench: Bench) -> tuple[int, int, int]:
    """Requests, tokens of their prompts, and tokens that they generate."""
    return min(32, max(bench.batches)), bench.context, 4 * bench.steps


def idle(bench: Bench) -> Iterator[Result]:
    """How long the GPU has nothing to do while all requests decode, and which kernels it runs."""
    runner = bench.runner()
    for batch in bench.batches:
        new = _steps_until_all_decode(bench, runner, batch) + bench.steps
        job = Job(runner, batch, bench.context, new, bench.shape.vocabulary)
        profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

        def watch(step: int, profile: Any = profile) -> None:
            if step == bench.steps // 2:
                profile.start()
            elif step == bench.steps // 2 + 10:
                profile.stop()

        job.run(watch)
        spans = sorted(
            (event.time_range.start, event.time_range.end, event.name)
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        length = spans[-1][1] - spans[0][0]
        between = [_waited(spans[first:last]) for first, last in _borders(spans)]
        yield {"what": f"idle between steps, batch {batch}", "value": 100 * sum(between) / length, "unit": "%"}
        yield {"what": f"longest of these, batch {batch}", "value": max(between), "unit": "us"}
        yield {"what": f"idle also between kernels, batch {batch}", "value": 100 * _waited(spans) / length, "unit": "%"}
        took: dict[str, float] = defaultdict(float)
        for start, end, name in spans:
            took[name] += end - start
        for name, duration in sorted(took.items(), key=lambda pair: -pair[1])[:12]:
            yield {"what": f"batch {batch}: {name[:60]}", "value": duration / 10 / 1e3, "unit": "ms/step"}


Span = tuple[float, float, str]
"""Of a kernel or copy on the device: start and end in microseconds, and its name."""


def _borders(spans: list[Span]) -> list[tuple[int, int]]:
    """Where one step goes over into the next: from its last kernel, before the copy of what it chose, to the third
    after the copy of what the next one needs, by when its graph runs."""
    borders, first = [], -1
    for index, (_, _, name) in enumerate(spans):
        if "DtoH" in name and first < 0:
            first = max(index - 1, 0)
        elif "HtoD" in name and first >= 0:
            borders.append((first, min(index + 4, len(spans))))
            first = -1
    return borders


def _waited(spans: list[Span]) -> float:
    """Microseconds in which nothing ran."""
    waited, busy_until = 0.0, spans[0][0]
    for start, end, _ in spans:
        waited += max(start - busy_until, 0.0)
        busy_until = max(busy_until, end)
    return waited


def loading(bench: Bench) -> Iterator[Result]:
    """The weights from the page cache to the device, once more than the first time."""
    from textgen_server.runner.load import load_model

    folder = bench.folder / "full"
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    options = ServerOptions(
        model_id=str(folder), device=bench.device.type, dtype=str(bench.dtype).removeprefix("torch.")
    )
    for _ in range(2):
        started = time.perf_counter()
        loaded = load_model(options, folder, prepare_device(options, 0, 1), Group())
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        del loaded
    yield {"what": "weights from the page cache", "value": size / seconds / 1e9, "unit": "GB/s"}


def peer(bench: Bench) -> Iterator[Result]:
    """transformers on the same weights and the same job: its continuous batching, and its plain batch."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    requests, context, new = _job(bench)
    rng = random.Random(0)
    prompts = [[rng.randrange(bench.shape.vocabulary) for _ in range(context)] for _ in range(requests)]
    model: Any = AutoModelForCausalLM.from_pretrained(bench.folder / "full", dtype=bench.dtype).to(bench.device).eval()
    how = GenerationConfig(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = torch.tensor(prompts, device=bench.device)
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            model.generate(ids, generation_config=how)
            seconds = time.perf_counter() - started
    yield {"what": "transformers, generate", "value": requests * new / seconds, "unit": "tokens/s"}
    how.min_new_tokens = None
    for _ in range(2):  # its graphs are captured in the first
        started = time.perf_counter()
        outputs = model.generate_batch(prompts, generation_config=how, persistent_manager=True)
        seconds = time.perf_counter() - started
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    if tokens != requests * new:
        raise RuntimeError(f"transformers' continuous batching brought {tokens} tokens instead of {requests * new}")
    yield {"what": "transformers, continuous batching", "value": tokens / seconds, "unit": "tokens/s"}


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of `work`, the median of several."""
    times = []
    for _ in range(12):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])
