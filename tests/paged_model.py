"""A stand-in for a model on a device, without torch: it remembers what is written to blocks, and answers from that."""

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from textgen_server.engine.plan import Item, Scores, StepPlan, StepResult
from textgen_server.errors import GenerationError

GARBAGE = 777
"""What is read where a step that failed has written nothing."""


def next_token(tokens: Iterable[int]) -> int:
    """The next token is a function of all tokens so far. It often repeats the token of three before, so that what has
    been said before is worth guessing."""
    tokens = list(tokens)
    chance = hashlib.sha256(bytes(t % 251 for t in tokens)).digest()[0]
    return tokens[-3] if len(tokens) > 2 and chance % 8 else chance


def alone(prompt: list[int], count: int) -> list[int]:
    """What a request says with nobody beside it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class PagedModel:
    """Remembers what was written to each block, as a KV cache does, and answers from that memory alone."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.cells: dict[tuple[int, int], int] = {}
        self._chosen: list[int] = []

    def execute(self, plan: StepPlan) -> StepResult:
        items = [self._known(item) for item in plan.items]
        for item in items:
            assert item.start > item.encoder_length or item.start == 0
            assert len(item.tokens) > item.encoder_length or item.start > 0, "an encoder is computed whole"
            for offset, token in enumerate(item.tokens, item.start):
                self.cells[item.blocks[offset // self.block_size], offset % self.block_size] = token
        self._chosen = [
            next_token(self._read(item)[: item.start + len(item.tokens) - item.drafts + row])
            for item in items
            for row in range(len(item.choices()))
        ]
        scores = [Scores([float(token) for token in item.targets], []) for item in items if item.targets]
        return StepResult(list(self._chosen), [0.0] * len(self._chosen), scores=scores)

    def skip(self, plan: StepPlan) -> None:
        """Fail at a step: it writes nothing, and what it chose is anything."""
        self._chosen = [GARBAGE] * sum(len(item.choices()) for item in plan.items)

    def _known(self, item: Item) -> Item:
        if item.follows < 0:
            return item
        assert item.tokens[-1] == 0
        return replace(item, tokens=[*item.tokens[:-1], self._chosen[item.follows]])

    def _read(self, item: Item) -> list[int]:
        length = item.start + len(item.tokens)
        places = [(item.blocks[i // self.block_size], i % self.block_size) for i in range(length)]
        tokens = [self.cells.get(place, GARBAGE) for place in places]
        if item.sample is not None and item.sample.history is not None:
            assert item.sample.history == tokens[: length - item.drafts]
        return tokens


class Device:
    """An executor that works as late as it may: when a result is taken.

    Args:
        ahead: see engine.executor.Executor.
        fails: numbers of steps, each with how it fails: "launch", "result", "broken", or the place of an item.
    """

    def __init__(self, model: PagedModel, ahead: int, fails: dict[int, str | int] | None = None) -> None:
        self.model = model
        self.ahead = ahead
        self.plans: list[StepPlan] = []
        self._fails = fails or {}
        self._launched: deque[Launched] = deque()

    def launch(self, plan: StepPlan) -> "Launched":
        number = len(self.plans)
        assert len(self._launched) <= self.ahead
        followed = sum(len(item.choices()) for item in self.plans[-1].items) if self._launched else 0
        assert all(item.follows < followed for item in plan.items), "it follows a step that is not under way"
        plan = replace(plan, items=[replace(i, tokens=list(i.tokens), blocks=list(i.blocks)) for i in plan.items])
        self.plans.append(plan)
        if self._fails.get(number) == "launch":
            raise GenerationError("it could not be launched")
        self._launched.append(Launched(self, plan, self._fails.get(number)))
        return self._launched[-1]

    def load_adapter(self, name: str, folder: Path) -> None:
        assert not self._launched, "a step is under way"

    def unload_adapter(self, name: str) -> None:
        assert not self._launched, "a step is under way"

    def take(self, step: "Launched") -> StepResult:
        assert self._launched.popleft() is step, "not the oldest"
        if step.fails == "broken":
            raise RuntimeError("broken")
        if step.fails == "result":
            self.model.skip(step.plan)
            raise GenerationError("it failed")
        result = self.model.execute(step.plan)
        return result if step.fails is None else _without(result, step.plan, int(step.fails) % len(step.plan.items))


class Launched:
    """See engine.executor.Step."""

    def __init__(self, device: Device, plan: StepPlan, fails: str | int | None) -> None:
        self.device, self.plan, self.fails = device, plan, fails

    def result(self) -> StepResult:
        return self.device.take(self)


def _without(result: StepResult, plan: StepPlan, place: int) -> StepResult:
    """The result where there was no memory for the item at `place`."""
    counts = [len(item.choices()) for item in plan.items]
    first, end = sum(counts[:place]), sum(counts[: place + 1])
    scored = [number for number, item in enumerate(plan.items) if item.targets]
    return replace(
        result,
        tokens=result.tokens[:first] + result.tokens[end:],
        logprobs=result.logprobs[:first] + result.logprobs[end:],
        scores=[score for number, score in zip(scored, result.scores, strict=True) if number != place],
        failed=[place],
    )
