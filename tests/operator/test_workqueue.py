"""The queue's promises: once, one at a time, spaced out."""

import asyncio

import pytest

from textgen_operator import workqueue
from textgen_operator.workqueue import FIRST_RETRY, LONGEST_RETRY, SPACING, WorkQueue


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock)


async def is_empty(queue: WorkQueue[str]) -> bool:
    """Whether a worker would wait."""
    try:
        async with asyncio.timeout(0.01):
            await queue.take()
    except TimeoutError:
        return True
    return False


async def test_a_key_that_is_added_often_is_taken_once(queue: WorkQueue[str]) -> None:
    for _ in range(3):
        queue.add("a")
    assert await queue.take() == "a"
    queue.done("a")
    assert await is_empty(queue)


async def test_keys_are_taken_in_the_order_in_which_they_are_due(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("later", 2)
    queue.add("sooner", 1)
    queue.add("first")
    queue.add("second")
    clock.now += 3
    assert [await queue.take() for _ in range(4)] == ["first", "second", "sooner", "later"]


async def test_a_key_is_not_taken_before_it_is_due(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", 5)
    assert await is_empty(queue)
    clock.now += 5
    assert await queue.take() == "a"


async def test_an_earlier_time_wins_and_a_later_one_changes_nothing(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", 60)
    queue.add("a")
    queue.add("a", 30)
    assert await queue.take() == "a"
    queue.done("a")
    clock.now += 100
    assert await is_empty(queue)


async def test_two_workers_never_have_the_same_key(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    await queue.take()
    queue.add("a")
    clock.now += 1
    assert await is_empty(queue)
    queue.done("a")
    assert await queue.take() == "a"


async def test_looks_at_the_same_key_are_spaced_out(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.done("a")
    assert await is_empty(queue)
    clock.now += SPACING
    assert await queue.take() == "a"


async def test_retries_come_later_and_later_up_to_a_limit(
    queue: WorkQueue[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue.random, "uniform", lambda low, high: high)
    for delay in (FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, *[None] * 8, LONGEST_RETRY):
        queue.retry("a")
        if delay is None:
            clock.now += LONGEST_RETRY
        else:
            clock.now += delay - 0.001
            assert await is_empty(queue)
            clock.now += 0.001
        assert await queue.take() == "a"
        queue.done("a")


async def test_success_starts_the_retries_over(queue: WorkQueue[str], clock: Clock) -> None:
    for _ in range(10):
        queue.retry("a")
    queue.succeeded("a")
    queue.retry("a")
    clock.now += FIRST_RETRY
    assert await queue.take() == "a"


async def test_an_event_need_not_wait_for_the_retry(queue: WorkQueue[str]) -> None:
    for _ in range(10):
        queue.retry("a")
    queue.add("a")
    assert await queue.take() == "a"


async def test_waiting_workers_are_woken(queue: WorkQueue[str]) -> None:
    workers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    async with asyncio.timeout(60):
        assert {await worker for worker in workers} == {"a", "b", "c"}


async def test_a_waiting_worker_wakes_when_a_delayed_key_is_due() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0.02)
    async with asyncio.timeout(60):
        assert await queue.take() == "a"


async def test_it_is_known_how_far_behind_the_workers_are(queue: WorkQueue[str], clock: Clock) -> None:
    assert queue.longest_overdue() == 0
    queue.add("waits")
    queue.add("not yet", 60)
    clock.now += 5
    assert queue.longest_overdue() == 5
    assert await queue.take() == "waits"
    clock.now += 2
    assert queue.longest_overdue() == 2
    queue.done("waits")
    assert queue.longest_overdue() == 0
