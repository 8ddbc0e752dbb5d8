"""The scheduler and the block manager under random sequences of everything that can happen to them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_model import PagedModel, alone

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.events import Output
from textgen_server.engine.request import Finish, Request
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.engine.speculation import Lookup
from textgen_server.errors import GenerationError, InvalidRequest
from textgen_server.priority import Priority


def make(num_blocks=64, block_size=4, batch=8, prefill=16, total=200, caching=True, speculate=0) -> Scheduler:
    blocks = BlockManager(num_blocks, block_size, caching)
    return Scheduler(blocks, Limits(batch, prefill, min(total, num_blocks * block_size), speculate))


def step(scheduler: Scheduler, model: PagedModel) -> list[Output]:
    plan = scheduler.plan()
    if plan is None:
        assert not len(scheduler), "requests wait and nothing is planned"
        return []
    assert sum(i.drafts or len(i.tokens) for i in plan.items[plan.num_decodes :]) <= scheduler.limits.max_prefill_tokens
    assert len(plan.items) <= scheduler.limits.max_batch_size
    outputs = scheduler.commit(plan, model.execute(plan)).outputs
    scheduler.blocks.check_integrity(list(scheduler))
    return outputs


PROMPTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)  # few token values, so that prefixes are shared often


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.lists(st.tuples(PROMPTS, st.integers(1, 20), st.integers(0, 8)), min_size=1, max_size=12),
    num_blocks=st.integers(15, 40),
    block_size=st.sampled_from([1, 3, 4]),
    prefill=st.integers(1, 30),
    batch=st.integers(1, 6),
    caching=st.booleans(),
    speculate=st.sampled_from([0, 1, 3]),
    scored=st.sets(st.integers(0, 11)),
    encoded=st.sets(st.integers(0, 11)),
    aborts=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 30)), max_size=4),
    priorities=st.lists(st.sampled_from(Priority), min_size=12, max_size=12),
    tenants=st.lists(st.sampled_from("ab"), min_size=12, max_size=12),
)
def test_every_request_ends_with_the_text_it_would_have_alone(
    prompts, num_blocks, block_size, prefill, batch, caching, speculate, scored, encoded, aborts, priorities, tenants
):
    blocks = num_blocks * (4 if block_size == 1 else 1)
    scheduler = make(blocks, block_size, batch, prefill, caching=caching, speculate=speculate)
    model = PagedModel(block_size)
    encoded = set() if caching else {key for key in encoded - scored if key < len(prompts)}
    runnable = {
        key: (prompt, count, when)
        for key, (prompt, count, when) in enumerate(prompts)
        if len(prompt) + count <= scheduler.limits.max_total_tokens and (key not in encoded or len(prompt) <= prefill)
    }
    texts: dict[int, list[int]] = {key: [] for key in runnable}
    aborted = set()
    for turn in range(2000):
        for key, (prompt, count, when) in runnable.items():
            if when == turn:
                length = len(prompt) - 1 if key in encoded else 0
                asked = {"wants_prompt_logprobs": key in scored, "encoder_length": length}
                scheduler.add(Request(key, list(prompt), count, priority=priorities[key], tenant=tenants[key], **asked))
        for key, when in aborts:
            if when == turn and scheduler.abort(key):
                aborted.add(key)
                scheduler.blocks.check_integrity(list(scheduler))
        for output in step(scheduler, model):
            request = output.request
            texts[request.key].append(output.token)
            assert request.prompt_scores.logprobs == (runnable[request.key][0][1:] if request.key in scored else [])
        if turn > 8 and not len(scheduler):
            break
    else:
        pytest.fail("some request never ended")
    assert scheduler.blocks.num_held == 0
    for key, (prompt, count, _) in runnable.items():
        expected = alone(prompt, count)
        assert texts[key] == (expected[: len(texts[key])] if key in aborted else expected)


def test_the_oldest_request_is_never_preempted_or_passed_over():
    scheduler, model = make(num_blocks=12, block_size=4, batch=8, prefill=8), PagedModel(4)
    finished = []
    for key in range(6):
        scheduler.add(Request(key, [key] * 10, 20))
    while len(scheduler):
        oldest = min(request.key for request in scheduler)
        before = next(r for r in scheduler if r.key == oldest)
        progress = (len(before.tokens), before.num_computed)
        outputs = step(scheduler, model)
        finished += [o.request.key for o in outputs if o.finish]
        assert oldest in finished or (len(before.tokens), before.num_computed) > progress
    assert finished == sorted(finished)
    assert scheduler.counters.preemptions > 0


def test_a_long_prompt_does_not_stop_running_requests():
    scheduler, model = make(num_blocks=100, block_size=4, prefill=8, total=400), PagedModel(4)
    scheduler.add(Request("short", [1, 2], 30))
    step(scheduler, model)
    scheduler.add(Request("long", [3] * 100, 2))
    for _ in range(12):
        assert [o.request.key for o in step(scheduler, model)][:1] == ["short"]


def test_an_equal_prefix_is_computed_once():
    scheduler, model = make(prefill=100), PagedModel(4)
    prompt = list(range(33))
    scheduler.add(Request("a", [*prompt, 1], 2))
    step(scheduler, model)
    scheduler.add(Request("b", [*prompt, 2], 2))
    plan = scheduler.plan()
    assert [(i.start, len(i.tokens)) for i in plan.items] == [(34, 1), (32, 2)]
    scheduler.commit(plan, model.execute(plan))
    assert scheduler.counters.cached_tokens == 32


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token():
    scheduler, model = make(prefill=100), PagedModel(4)
    for key in "ab":
        scheduler.add(Request(key, list(range(32)), 1))
        outputs = step(scheduler, model)
        assert [o.token for o in outputs] == alone(list(range(32)), 1)
    assert scheduler.counters.cached_tokens == 28


def test_the_next_turn_of_a_chat_computes_only_what_is_new():
    scheduler, model = make(prefill=100), PagedModel(4)
    chat = list(range(10))
    scheduler.add(Request("first", list(chat), 9))
    while len(scheduler):
        chat += [output.token for output in step(scheduler, model)]
    scheduler.add(Request("second", [*chat, 5, 6, 7], 1))
    plan = scheduler.plan()
    # The last token of the answer was never computed, and blocks have four.
    assert [(item.start, len(item.tokens)) for item in plan.items] == [(16, 6)]


def test_requests_share_blocks_only_under_the_same_salt():
    scheduler, model = make(prefill=100), PagedModel(4)
    for salt in ("x", "y", "x"):
        scheduler.add(Request(salt + str(scheduler.counters.prompt_tokens), [7] * 9, 1, cache_salt=salt))
        step(scheduler, model)
    assert scheduler.counters.cached_tokens == 8


def test_an_abort_frees_the_blocks_at_once():
    scheduler, model = make(), PagedModel(4)
    scheduler.add(Request("a", [1] * 30, 10))
    step(scheduler, model)
    assert scheduler.blocks.num_held == 4
    assert scheduler.abort("a")
    assert scheduler.blocks.num_held == 0
    assert not scheduler.abort("a")


def test_a_stop_token_ends_the_request_and_counts_as_generated():
    scheduler, model = make(), PagedModel(4)
    expected = alone([5, 6], 3)
    scheduler.add(Request("a", [5, 6], 10, stop_tokens=frozenset(expected[2:])))
    outputs = [o for _ in range(3) for o in step(scheduler, model)]
    assert [o.finish for o in outputs] == [Finish.UNFINISHED, Finish.UNFINISHED, Finish.END_OF_SEQUENCE]


def test_a_request_that_could_never_fit_is_refused_with_the_limit():
    scheduler = make(num_blocks=4, block_size=4)
    with pytest.raises(InvalidRequest, match="limit is 16"):
        scheduler.add(Request("a", [1] * 10, 7))


def test_a_failed_step_ends_its_requests_and_spares_the_waiting():
    scheduler, model = make(batch=1), PagedModel(4)
    scheduler.add(Request("a", [1, 2, 3], 5))
    scheduler.add(Request("b", [1, 2, 3], 5))
    assert scheduler.plan() is not None
    assert [r.key for r in scheduler.abandon()] == ["a"]
    scheduler.blocks.check_integrity(list(scheduler))
    assert [o.request.key for o in step(scheduler, model)] == ["b"]


def test_a_request_that_waits_too_long_for_its_first_step_is_given_up():
    scheduler, model = make(batch=1), PagedModel(4)
    scheduler.add(Request("running", [1, 2], 30, queue_timeout=0.0))
    step(scheduler, model)
    scheduler.add(Request("late", [3], 5, queue_timeout=0.0))
    scheduler.add(Request("patient", [4], 5, queue_timeout=60.0))
    scheduler.add(Request("without limit", [5], 5))
    assert [request.key for request in scheduler.expire()] == ["late"]
    assert [request.key for request in scheduler] == ["running", "patient", "without limit"]


class Countdown:
    """A constraint that lets `left` tokens come and breaks on token 0."""

    def __init__(self, left: int, broken_at: int = 0) -> None:
        self.left, self.broken_at = left, broken_at

    @property
    def finished(self) -> bool:
        return self.left == 0

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        masks.fill(-1)

    def accept(self, token: int) -> None:
        self.left -= 1
        if self.left == self.broken_at - 1:
            raise GenerationError("broken")


def test_a_grammar_that_is_complete_ends_its_request_and_one_that_breaks_fails_alone():
    scheduler, model = make(), PagedModel(4)
    scheduler.add(Request("complete", [1], 30, constraint=Countdown(3)))
    scheduler.add(Request("breaks", [2], 30, constraint=Countdown(9, broken_at=8)))
    scheduler.add(Request("free", [3], 5))
    ended, failed = {}, []
    while (plan := scheduler.plan()) is not None:
        events = scheduler.commit(plan, model.execute(plan))
        scheduler.blocks.check_integrity(list(scheduler))
        ended |= {o.request.key: (o.index + 1, o.finish) for o in events.outputs if o.finish}
        failed += [failure.key for failure in events.failures]
    assert ended == {"complete": (3, Finish.END_OF_SEQUENCE), "free": (5, Finish.LENGTH)}
    assert failed == ["breaks"]


def test_a_prompt_that_the_encoder_cannot_take_in_one_step_is_refused():
    with pytest.raises(InvalidRequest, match="the encoder takes 15 tokens at most, and the prompt has 16"):
        make(prefill=16).add(Request("long", [1] * 17, 2, encoder_length=16))


def test_what_was_said_before_is_guessed_and_checked_in_one_step():
    scheduler, model = make(num_blocks=100, prefill=100, speculate=4), PagedModel(4)
    scheduler.add(Request("a", [1, 2, 3] * 5, 60))
    steps = 0
    while len(scheduler):
        step(scheduler, model)
        steps += 1
    counters = scheduler.counters
    assert counters.right_guesses > 10
    assert steps == 60 - counters.right_guesses
    assert (sum(counters.skipped_tokens.counts), counters.skipped_tokens.sum) == (steps, counters.right_guesses)
    assert counters.generated_tokens == 60


def test_guessing_pauses_after_misses():
    lookup = Lookup()
    tokens = [1, 2, 3, 1, 2]
    asked = 0
    for new in range(100):
        if lookup.guess(tokens, 2):
            asked += 1
            lookup.judge(0)
        tokens += [100 + new, 1, 2]
    assert 3 < asked < 15
