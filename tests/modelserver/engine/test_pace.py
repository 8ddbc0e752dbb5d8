"""Long prompts beside streams, on machines whose steps take a time that is simulated."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from paged_model import PagedModel, alone

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.plan import StepPlan
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler


@dataclass(frozen=True)
class Machine:
    """Seconds of a step: for reading the weights or computing its rows, whichever takes longer, and for each prompt
    token's attention; and what a step with prompt tokens costs beyond that."""

    weights: float
    row: float
    overhead: float = 0.0
    most: int = 512

    def seconds(self, plan: StepPlan) -> float:
        rows = sum(len(item.tokens) for item in plan.items)
        attention = sum(self.row * 0.1 * item.start / 1000 * len(item.tokens) for item in plan.prefills)
        return max(self.weights, rows * self.row) + attention + (self.overhead if plan.prefills else 0.0)


CPU = Machine(weights=0.02, row=0.001)
GPU = Machine(weights=0.006, row=22e-6, overhead=0.001, most=4096)


class Simulation:
    """Streams that have begun, and when each token of theirs came."""

    def __init__(self, machine: Machine, streams: int) -> None:
        self.machine = machine
        self.now = 0.0
        self.texts: dict[str, list[int]] = {}
        self.times: dict[str, list[float]] = {}
        self.scheduler = Scheduler(BlockManager(4096, 16), Limits(64, machine.most, 8000))
        self._model = PagedModel(16)
        for number in range(streams):
            self.add(f"stream {number}", [number] * 20, 400)
        for _ in range(20):
            self.step()

    def add(self, key: str, prompt: list[int], count: int) -> None:
        self.scheduler.add(Request(key, prompt, count))
        self.texts[key], self.times[key] = [], []

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert plan is not None
        seconds = self.machine.seconds(plan)
        self.now += seconds
        for output in self.scheduler.commit(plan, self._model.execute(plan)).outputs:
            self.texts[output.request.key].append(output.token)
            self.times[output.request.key].append(self.now)
        self.scheduler.pace.observe(plan, seconds)

    def until_first(self, key: str) -> tuple[float, list[float]]:
        """Seconds until the first token of `key`, and what passed between tokens of the first stream."""
        started, before = self.now, len(self.times["stream 0"])
        while not self.times[key]:
            self.step()
        times = self.times["stream 0"][before - 1 :]
        return self.now - started, [b - a for a, b in pairwise(times)]


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("streams", [1, 8])
def test_streams_go_on_at_half_their_speed_or_more_while_a_long_prompt_is_computed(machine, streams):
    simulation = Simulation(machine, streams)
    prompt = [5] * 2000
    simulation.add("long", prompt, 1)
    seconds, gaps = simulation.until_first("long")
    assert max(gaps) < 2 * machine.weights
    assert seconds < 5 * machine.row * len(prompt)
    assert simulation.texts["long"] == alone(prompt, 1)


def test_a_long_prompt_has_whole_steps_where_nobody_decodes():
    simulation = Simulation(CPU, streams=1)
    simulation.scheduler.abort("stream 0")
    simulation.add("long", [5] * 2000, 1)
    steps = 0
    while not simulation.times["long"]:
        simulation.step()
        steps += 1
    assert steps == 4


def test_short_prompts_join_the_batch_at_once():
    simulation = Simulation(CPU, streams=8)
    for number in range(3):
        simulation.add(f"short {number}", [number] * 150, 1)
    simulation.step()
    assert all(len(simulation.times[f"short {number}"]) == 1 for number in range(3))


def test_where_many_prompts_wait_throughput_counts():
    simulation = Simulation(CPU, streams=5)
    for number in range(3):
        simulation.add(f"long {number}", [number] * 500, 1)
    simulation.step()
    assert simulation.times["long 0"]


def test_a_short_prompt_does_not_wait_for_a_long_one():
    simulation = Simulation(CPU, streams=8)
    for number in range(2):
        simulation.add(f"long {number}", [number] * 2000, 1)
    simulation.add("short", [7] * 100, 1)
    simulation.step()
    assert simulation.times["short"]
