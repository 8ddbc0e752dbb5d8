"""The engine over its real wire, a Unix socket and gRPC, with an executor that only counts."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

import pytest

from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.executor import FinishedStep
from textgen_server.engine.loop import EngineLoop
from textgen_server.engine.plan import StepPlan, StepResult
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.errors import EngineUnavailable, GenerationError, InvalidRequest
from textgen_server.priority import Priority
from textgen_server.rpc.client import EngineRequest, SamplingParams, Token
from textgen_server.rpc.engine_pb2 import EngineInfo
from textgen_server.rpc.remote import RemoteEngine
from textgen_server.rpc.service import EngineService, serve
from textgen_server.sampling import Grammar


@dataclass
class CountingExecutor:
    """The next token is the last plus one. What was asked for is kept; `fail` and `gate` spoil a step."""

    plans: list[StepPlan] = field(default_factory=list)
    fail: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)

    ahead = 0

    def launch(self, plan: StepPlan) -> FinishedStep:
        self.gate.wait(60)
        if self.fail is not None:
            raise self.fail
        self.plans.append(plan)
        tokens = [item.tokens[-1] + 1 for item in plan.items if item.sample]
        return FinishedStep(StepResult(tokens, [-0.5] * len(tokens)))


class UpTo:
    """A constraint that ends with the token `last`."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.finished = False

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        masks.fill(-1)

    def accept(self, token: int) -> None:
        self.finished = token == self.last


@dataclass
class Compiler:
    """A grammar is the last token that may come. Compiling waits for `gate`; `asked` is what it was asked for."""

    asked: list[tuple[Grammar, bool]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def constraint(self, grammar: Grammar, goes_on: bool) -> UpTo:
        self.asked.append((grammar, goes_on))
        self.gate.wait(60)
        if grammar.source == "wrong":
            raise InvalidRequest("grammar is not valid: it is wrong")
        return UpTo(int(grammar.source))


@dataclass
class Wire:
    address: str
    loop: EngineLoop
    executor: CountingExecutor
    compiler: Compiler
    service: EngineService

    async def client(self, stuck_after: float = 60.0) -> RemoteEngine:
        engine = RemoteEngine(stuck_after)
        await engine.connect(self.address)
        return engine


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    executor = CountingExecutor()
    executor.gate.set()
    compiler = Compiler()
    compiler.gate.set()
    service = EngineService(EngineInfo(model_type="counting", max_total_tokens=1000), compiler)
    loop = EngineLoop(Scheduler(BlockManager(64, 16), Limits(8, 64, 1000)), executor, service.publish)
    service.attach(loop)
    address = f"unix:{tmp_path}/engine"
    server = await serve(service, address)
    thread = threading.Thread(target=run, args=(loop,))
    thread.start()
    yield Wire(address, loop, executor, compiler, service)
    executor.gate.set()
    compiler.gate.set()
    loop.stop()
    await asyncio.to_thread(thread.join, 10)
    await server.stop()


def run(loop: EngineLoop) -> None:
    with contextlib.suppress(RuntimeError):  # what a test breaks the executor with
        loop.run()


class Receiver:
    """Collects a request's tokens."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.ended = asyncio.get_running_loop().create_future()

    def take(self, token: Token) -> None:
        self.tokens.append(token)
        if token.finish:
            self.ended.set_result(None)

    def fail(self, error: Exception) -> None:
        self.ended.set_exception(error)


async def collect(engine: RemoteEngine, request: EngineRequest) -> list[Token]:
    receiver = Receiver()
    engine.submit(request, receiver)
    await receiver.ended
    return receiver.tokens


async def test_tokens_arrive_in_order_with_their_reason(wire: Wire):
    engine = await wire.client()
    assert engine.info.model_type == "counting"
    tokens = await collect(engine, EngineRequest([7, 8], max_new_tokens=3))
    assert [(t.id, t.finish) for t in tokens] == [(9, ""), (10, ""), (11, "length")]
    assert tokens[0].start.queue_seconds >= 0
    assert tokens[0].start.cached_tokens == 0
    assert tokens[1].start is None
    tokens = await collect(engine, EngineRequest([7, 8], max_new_tokens=30, stop_tokens=(11,)))
    assert (len(tokens), tokens[-1].finish) == (3, "eos_token")
    await engine.disconnect(EngineUnavailable("done"))


async def test_every_sampling_parameter_reaches_the_executor(wire: Wire):
    engine = await wire.client()
    params = SamplingParams(
        greedy=False,
        temperature=0.5,
        top_k=7,
        top_p=0.75,
        typical_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=-1.0,
        count_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias=((3, -100.0), (5, 0.25)),
        watermark=True,
        seed=2**64 - 1,
        top_tokens=3,
        raw_logprobs=True,
    )
    assert not any(value == default for value, default in zip(astuple(params), astuple(SamplingParams()), strict=True))
    await collect(engine, EngineRequest([1, 2], 1, params))
    sample = wire.executor.plans[-1].items[0].sample
    assert sample.params == params
    assert sample.history == [1, 2]
    await engine.disconnect(EngineUnavailable("done"))


async def test_class_and_tenant_reach_the_queue(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    engine, asked, submit = await wire.client(), [], wire.loop.submit
    monkeypatch.setattr(wire.loop, "submit", lambda request: (asked.append(request), submit(request)))
    for priority in Priority:
        await collect(engine, EngineRequest([7], 1, tenant=priority.name, priority=priority))
    assert [(request.priority, request.tenant) for request in asked] == [(p, p.name) for p in Priority]
    await engine.disconnect(EngineUnavailable("done"))


async def test_two_clients_share_an_engine_without_mixing(wire: Wire):
    engines = [await wire.client(), await wire.client()]
    requests = [(engines[i % 2], EngineRequest([100 * i, 100 * i], 20)) for i in range(12)]
    results = await asyncio.gather(*(collect(engine, request) for engine, request in requests))
    for i, tokens in enumerate(results):
        assert [t.id for t in tokens] == list(range(100 * i + 1, 100 * i + 21))
    for engine in engines:
        await engine.disconnect(EngineUnavailable("done"))


async def test_leaving_early_aborts_and_so_does_losing_the_client(wire: Wire):
    wire.executor.gate.clear()
    engine = await wire.client()
    receiver = Receiver()
    leave = engine.submit(EngineRequest([1], 900), receiver)
    await until(lambda: len(wire.loop.scheduler) == 1)
    leave()
    await until(lambda: not wire.loop._inbox.empty())  # the engine has heard of it, but for its step
    wire.executor.gate.set()
    await until(lambda: not len(wire.loop.scheduler))
    assert len(wire.executor.plans) < 900
    assert not receiver.tokens
    wire.executor.gate.clear()
    running = asyncio.create_task(collect(engine, EngineRequest([1], 900)))
    await until(lambda: len(wire.loop.scheduler) == 1)
    await engine.disconnect(EngineUnavailable("bye"))
    with pytest.raises(EngineUnavailable, match="bye"):
        await running
    wire.executor.gate.set()
    await until(lambda: wire.loop.scheduler.blocks.num_held == 0)


async def test_a_request_beyond_the_limits_is_refused_and_others_go_on(wire: Wire):
    engine = await wire.client()
    with pytest.raises(InvalidRequest, match="limit is 1000"):
        await collect(engine, EngineRequest([1] * 990, 11))
    assert len(await collect(engine, EngineRequest([1], 2))) == 2
    await engine.disconnect(EngineUnavailable("done"))


async def test_a_failed_step_fails_its_requests_only(wire: Wire):
    engine = await wire.client()
    wire.executor.fail = GenerationError("out of memory")
    with pytest.raises(GenerationError, match="out of memory"):
        await collect(engine, EngineRequest([1], 2))
    wire.executor.fail = None
    assert engine.healthy
    assert len(await collect(engine, EngineRequest([1], 2))) == 2
    await engine.disconnect(EngineUnavailable("done"))


async def test_a_broken_executor_ends_every_request_with_an_error(wire: Wire):
    engine = await wire.client()
    wire.executor.gate.clear()
    requests = [asyncio.create_task(collect(engine, EngineRequest([i], 5))) for i in range(12)]
    await until(lambda: wire.loop.seconds_in_step > 0)
    wire.executor.fail = RuntimeError("the device is gone")
    wire.executor.gate.set()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(result) for result in results} == {GenerationError}
    await engine.disconnect(EngineUnavailable("the engine ended"))


async def test_an_engine_stuck_in_a_step_is_given_up(wire: Wire):
    engine = await wire.client(stuck_after=0.5)
    wire.executor.gate.clear()
    request = asyncio.create_task(collect(engine, EngineRequest([1], 5)))
    reason = await asyncio.wait_for(engine.wait_until_lost(), 60)
    assert "stuck" in str(reason)
    assert not engine.healthy
    with pytest.raises(EngineUnavailable, match="stuck"):
        await request
    with pytest.raises(EngineUnavailable):
        await collect(engine, EngineRequest([1], 5))
    await engine.disconnect(EngineUnavailable("done"))


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's
            await asyncio.sleep(0.01)


async def test_the_status_counts_and_times_steps_by_method(wire: Wire):
    engine = await wire.client()
    await collect(engine, EngineRequest([7, 8], max_new_tokens=3))
    wire.executor.fail = GenerationError("no memory")
    with pytest.raises(GenerationError):
        await collect(engine, EngineRequest([7, 8], max_new_tokens=3))
    status = await engine.status()
    prefill, decode = status.statistics
    assert (prefill.method, sum(prefill.inference.counts), prefill.failures) == ("prefill", 1, 1)
    assert (decode.method, sum(decode.inference.counts), decode.failures) == ("decode", 2, 0)
    for part in (decode.forward, decode.decode, decode.filter):
        assert sum(part.counts) == 2
        assert 0 < part.sum < decode.inference.sum
    assert (sum(status.joined.counts), status.joined.sum) == (2, 2)
    assert sum(status.join_seconds.counts) == 0
    await engine.disconnect(EngineUnavailable("done"))


async def test_the_status_tells_of_requests_that_join_others_and_what_all_may_come_to(wire: Wire):
    engine = await wire.client()
    wire.executor.gate.clear()
    first = asyncio.create_task(collect(engine, EngineRequest([7, 8], max_new_tokens=5)))
    while not (await engine.status()).running:  # noqa: ASYNC110 - the engine is another thread
        await asyncio.sleep(0.01)
    assert (await engine.status()).tokens_claimed == 7
    second = asyncio.create_task(collect(engine, EngineRequest([7, 8, 9], max_new_tokens=2)))
    while not (await engine.status()).waiting and wire.loop._inbox.empty():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    wire.executor.gate.set()
    await asyncio.gather(first, second)
    status = await engine.status()
    assert (sum(status.joined.counts), status.joined.sum) == (2, 2)
    assert sum(status.join_seconds.counts) == 1
    assert status.tokens_claimed == 0
    await engine.disconnect(EngineUnavailable("done"))


async def test_a_grammar_is_compiled_while_the_engine_serves_others(wire: Wire):
    engine = await wire.client()
    wire.compiler.gate.clear()
    grammar = Grammar("regex", "5")
    constrained = asyncio.create_task(collect(engine, EngineRequest([1], 50, grammar=grammar)))
    await until(lambda: wire.compiler.asked)
    assert len(await collect(engine, EngineRequest([1], 7, stop_tokens=(99,)))) == 7
    assert not constrained.done()
    wire.compiler.gate.set()
    tokens = await constrained
    assert [token.id for token in tokens] == [2, 3, 4, 5]
    assert tokens[-1].finish == "eos_token"
    await collect(engine, EngineRequest([1], 50, stop_tokens=(99,), grammar=grammar))
    assert wire.compiler.asked == [(grammar, True), (grammar, False)]
    await engine.disconnect(EngineUnavailable("done"))


async def test_a_grammar_that_the_engine_cannot_use_fails_its_request_alone(wire: Wire):
    engine = await wire.client()
    with pytest.raises(InvalidRequest, match="it is wrong"):
        await collect(engine, EngineRequest([1], 5, grammar=Grammar("regex", "wrong")))
    with pytest.raises(GenerationError, match="its grammar failed: invalid literal"):
        await collect(engine, EngineRequest([1], 5, grammar=Grammar("regex", "no number")))
    assert len(await collect(engine, EngineRequest([1], 2, grammar=Grammar("regex", "3")))) == 2
    await engine.disconnect(EngineUnavailable("done"))


async def test_who_leaves_while_the_grammar_is_compiled_is_never_served(wire: Wire):
    engine = await wire.client()
    wire.compiler.gate.clear()
    leave = engine.submit(EngineRequest([1], 5, grammar=Grammar("regex", "9")), Receiver())
    await until(lambda: wire.compiler.asked)
    leave()
    assert len(await collect(engine, EngineRequest([3], 1))) == 1  # so the engine has heard of it
    wire.compiler.gate.set()
    await until(lambda: not wire.service._constraining)
    assert len(await collect(engine, EngineRequest([3], 1))) == 1
    assert [plan.items[0].tokens for plan in wire.executor.plans] == [[3], [3]]
    await engine.disconnect(EngineUnavailable("done"))


async def test_a_model_whose_tokenizer_cannot_be_held_to_a_grammar_says_so(wire: Wire):
    wire.service._grammars = None
    engine = await wire.client()
    with pytest.raises(InvalidRequest, match="grammar is not supported"):
        await collect(engine, EngineRequest([1], 5, grammar=Grammar("regex", "9")))
    await engine.disconnect(EngineUnavailable("done"))
