"""The loop with a device that is one step behind the plans, or none: the same texts, whatever happens."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_model import Device, PagedModel, alone

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Events
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.request import Finish, Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.priority import Priority
from textgen_server.sampling import SamplingParams


class Ending:
    """A constraint after whose `left` tokens nothing may come."""

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def finished(self) -> bool:
        return self.left == 0

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        masks.fill(-1)

    def accept(self, token: int) -> None:
        self.left -= 1


class Engine:
    """A loop that runs on the test's own thread until all requests have ended.

    Attributes:
        texts: of each request.
        ends: how each ended.
    """

    def __init__(self, device: Device, scheduler: Scheduler) -> None:
        self.device, self.scheduler = device, scheduler
        self.loop = EngineLoop(scheduler, device, self._publish)
        self.texts: dict[int, list[int]] = {}
        self.ends: dict[int, Finish | str] = {}
        self.after_step: Callable[[int], None] = lambda number: None

    def run(self, requests: list[Request]) -> None:
        for request in requests:
            self.texts[request.key] = []
            self.loop.submit(request)
        if requests:
            self.loop.run()

    def abort(self, key: int) -> None:
        if key in self.texts and key not in self.ends:
            self.loop.abort(key)
            self.loop.submit(Request(("heard of", key), [], 1))  # refused, as it has no tokens, when that is done

    def _publish(self, events: Events) -> None:
        self.scheduler.blocks.check_integrity(list(self.scheduler))
        for output in events.outputs:
            assert output.request.key not in self.ends, "told of a request that has ended"
            self.texts[output.request.key].append(output.token)
            if output.finish:
                self._end(output.request.key, output.finish)
        for failure in events.failures:
            match failure.key:
                case ("heard of", key):
                    self.ends.setdefault(key, "aborted")
                case key:
                    self._end(key, str(failure.error))
        self.after_step(self.loop.steps)
        if len(self.ends) == len(self.texts):
            self.loop.stop()

    def _end(self, key: int, how: Finish | str) -> None:
        assert key not in self.ends, "answered twice"
        self.ends[key] = how


def make(ahead: int, num_blocks=64, block_size=4, batch=8, prefill=16, total=200, speculate=0, fails=None) -> Engine:
    blocks = BlockManager(num_blocks, block_size)
    limits = Limits(batch, prefill, min(total, num_blocks * block_size), speculate)
    return Engine(Device(PagedModel(block_size), ahead, fails), Scheduler(blocks, limits))


KINDS: dict[str, Callable[[], dict]] = {
    "plain": dict,
    "scored": lambda: {"wants_prompt_logprobs": True},
    "penalty": lambda: {"sampling": SamplingParams(repetition_penalty=1.5)},
    "watermark": lambda: {"sampling": SamplingParams(watermark=True)},
    "grammar": lambda: {"constraint": Ending(5)},
}
ASKED = st.tuples(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.integers(1, 15),
    st.sampled_from(["plain"] * 5 + list(KINDS)),
    st.frozensets(st.integers(0, 255), max_size=30),
)


def expected(prompt: list[int], count: int, kind: str, stops: frozenset[int]) -> list[int]:
    text = alone(prompt, min(count, 5) if kind == "grammar" else count)
    ends = [at for at, token in enumerate(text) if token in stops]
    return text[: ends[0] + 1] if ends else text


@settings(max_examples=100, deadline=None)
@given(
    asked=st.lists(ASKED, min_size=1, max_size=10),
    ahead=st.sampled_from([0, 1, 1]),
    num_blocks=st.integers(15, 40),
    block_size=st.sampled_from([3, 4]),
    prefill=st.integers(1, 30),
    batch=st.integers(1, 6),
    speculate=st.sampled_from([0, 0, 2]),
    aborts=st.dictionaries(st.integers(0, 30), st.integers(0, 9), max_size=3),
    priorities=st.lists(st.sampled_from(Priority), min_size=10, max_size=10),
    fails=st.dictionaries(
        st.integers(0, 30), st.one_of(st.sampled_from(["launch", "result"]), st.integers(0, 5)), max_size=2
    ),
)
def test_every_request_is_answered_once_with_its_own_text(
    asked, ahead, num_blocks, block_size, prefill, batch, speculate, aborts, priorities, fails
):
    engine = make(ahead, num_blocks, block_size, batch, prefill, speculate=speculate, fails=fails)
    requests = [
        Request(key, list(prompt), count, stop_tokens=stops, priority=priorities[key], **KINDS[kind]())
        for key, (prompt, count, kind, stops) in enumerate(asked)
        if len(prompt) + count <= engine.scheduler.limits.max_total_tokens
    ]
    engine.after_step = lambda number: engine.abort(aborts[number]) if number in aborts else None
    engine.run(requests)
    assert len(engine.scheduler) == engine.scheduler.blocks.num_held == 0
    for request in requests:
        key, text = request.key, expected(*asked[request.key])
        if isinstance(engine.ends[key], Finish):
            assert engine.texts[key] == text
        else:
            assert engine.texts[key] == text[: len(engine.texts[key])]
            assert engine.ends[key] == "aborted" or fails


def test_a_step_is_launched_before_the_tokens_of_the_last_are_known():
    engine = make(ahead=1)
    engine.run([Request(0, [1, 2, 3], 5), Request(1, [1, 2], 5)])
    decodes = engine.device.plans[1:]
    assert [[item.follows for item in plan.items] for plan in decodes] == [[0, 1]] * 4
    assert len(engine.device.plans) == 5, "the last token's length was foreseen: no step for nothing"


def test_a_request_that_turns_out_to_have_ended_costs_one_item_and_changes_nothing():
    text = alone([5, 6], 5)
    engine = make(ahead=1)
    engine.run([Request(0, [5, 6], 9, stop_tokens=frozenset(text[2:3])), Request(1, [1, 2], 5)])
    assert engine.texts == {0: text[: text.index(text[2]) + 1], 1: alone([1, 2], 5)}
    assert engine.ends == {0: Finish.END_OF_SEQUENCE, 1: Finish.LENGTH}
    assert len(engine.device.plans[len(engine.texts[0])].items) == 2


def test_adapters_come_and_go_when_no_step_is_under_way():
    engine, done = make(ahead=1), []

    def change(step: int) -> None:
        if step == 3:
            done.append(engine.loop.load_adapter("late", Path("late")))
        if step == 6:
            done.append(engine.loop.unload_adapter("late"))

    engine.after_step = change
    engine.run([Request(0, [1, 2, 3], 12)])
    assert [future.result(0) for future in done] == [None, None]
    assert engine.texts[0] == alone([1, 2, 3], 12)


@pytest.mark.parametrize("ahead", [0, 1])
def test_when_the_device_breaks_every_request_is_told(ahead):
    engine = make(ahead, batch=1, fails={3: "broken"})
    with pytest.raises(RuntimeError, match="broken"):
        engine.run([Request(key, [key] * 3, 9) for key in range(3)])
    assert engine.ends == dict.fromkeys(range(3), "the engine stopped")
