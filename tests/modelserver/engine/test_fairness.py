"""Classes and tenants: who goes first, and that everybody goes at some time."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_model import PagedModel, alone

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.queue import EVERY, Queue
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.priority import Priority

HIGH, NORMAL, LOW = Priority


class Server:
    """A scheduler and a model, and in which order requests ended."""

    def __init__(self, batch: int = 1, num_blocks: int = 64) -> None:
        self.scheduler = Scheduler(BlockManager(num_blocks, 4), Limits(batch, 16, num_blocks * 4))
        self.texts: dict[object, list[int]] = {}
        self.ended: list[object] = []
        self._model = PagedModel(4)

    def add(self, key: object, prompt: list[int], count: int, priority: Priority = NORMAL, tenant: str = "") -> Request:
        request = Request(key, prompt, count, priority=priority, tenant=tenant)
        self.scheduler.add(request)
        self.texts[key] = []
        return request

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert plan is not None
        for output in self.scheduler.commit(plan, self._model.execute(plan)).outputs:
            self.texts[output.request.key].append(output.token)
            if output.finish:
                self.ended.append(output.request.key)
        self.scheduler.blocks.check_integrity(self.scheduler)

    def run(self) -> list[object]:
        while len(self.scheduler):
            self.step()
        return self.ended


def test_higher_classes_go_first_and_equals_in_the_order_of_arrival():
    server = Server()
    for key, priority in enumerate([LOW, NORMAL, HIGH, NORMAL, HIGH]):
        server.add(key, [key] * 3, 2, priority)
    assert server.run() == [2, 4, 1, 3, 0]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_tenant_with_many_requests_does_not_delay_one_with_few(batch):
    server = Server(batch)
    for number in range(20):
        server.add(("many", number), [1] * 10, 6, tenant="many")
    server.step()
    for number in range(3):
        server.add(("few", number), [2] * 10, 6, tenant="few")
    order = server.run()
    assert [order.index(("few", number)) for number in range(3)] < [batch + 2, batch + 4, batch + 6]


def test_tenants_that_always_want_something_get_the_same_whatever_its_shape():
    server = Server(batch=2)
    for number in range(40):
        server.add(("talks", number), [number], 20, tenant="talks")
        server.add(("reads", number), [number] * 40, 1, tenant="reads")
    while len(server.ended) < 40:
        server.step()
    served = [next(r for r in server.scheduler if r.tenant == tenant).account.served for tenant in ("talks", "reads")]
    assert max(served) - min(served) <= 2 * 42


def test_rest_is_not_saved_up():
    server = Server()
    server.add("a", [1] * 20, 30, tenant="a")
    server.run()
    for number in range(3):
        server.add(("a", number), [1] * 10, 10, tenant="a")
        server.add(("b", number), [2] * 10, 10, tenant="b")
    assert sorted(server.run()[1:3]) == [("a", 0), ("b", 0)]


def test_a_low_class_ends_beside_an_endless_stream_of_high_ones():
    server = Server(batch=2, num_blocks=12)
    low = server.add("low", [9] * 10, 12, LOW)
    for number in itertools.count():
        if low.ended:
            break
        assert number < 200, "it starves"
        server.add(number, [number % 5] * 10, 6, HIGH, tenant=str(number))
        server.step()
    assert server.texts["low"] == alone([9] * 10, 12)
    assert low.displaced


def test_a_higher_class_takes_the_place_of_a_lower_which_loses_nothing():
    server = Server(batch=2)
    for key in ("low", "normal"):
        server.add(key, [3] * 10, 8, Priority[key.upper()])
    server.step()
    server.add("high", [4] * 10, 4, HIGH)
    assert server.run() == ["high", "normal", "low"]
    assert server.scheduler.counters.preemptions == 1
    assert [server.texts[key] for key in ("low", "normal", "high")] == [
        alone([3] * 10, 8),
        alone([3] * 10, 8),
        alone([4] * 10, 4),
    ]


def test_nobody_is_sent_away_where_it_would_not_be_enough():
    server = Server(batch=4, num_blocks=16)
    server.add("low", [1] * 10, 20, LOW)
    server.add("first", [2] * 30, 20, HIGH)
    server.step()
    server.step()
    server.step()
    server.add("high", [3] * 40, 2, HIGH)
    server.step()
    assert server.scheduler.counters.preemptions == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.sampled_from("abc"), st.integers(1, 50), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    )
)
def test_who_waits_leaves_after_so_many_others_for_each_that_came_before(arrivals):
    queue, waiting, departures = Queue(), {}, 0
    for priority, tenant, cost, leave in [*arrivals, (LOW, "a", 1, len(arrivals) + 1)]:
        request = Request(len(waiting), [1], cost, priority=priority, tenant=tenant)
        waiting[request] = departures + EVERY * (len(queue) + 1)
        queue.add(request)
        for _ in range(min(leave, len(queue))):
            head = queue.head()
            queue.take(head)
            departures += 1
            assert departures <= waiting[head]
            head.account.served += cost
    assert len(queue) == 0
