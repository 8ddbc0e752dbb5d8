"""The engine's one loop, in a thread of its own: take in -> plan -> launch -> (the device works) -> commit -> publish.

Where the executor allows it, the next step is planned and launched before the one under way has ended, so that the
device never waits for the host. A request that turns out to have ended has a place in one step too many then, which is
passed over.

The gRPC service puts requests and aborts into the inbox and receives what each step produced through `publish`. The
executor, which does the arithmetic, is only known by its protocol, so that all of this runs in tests without torch.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from textgen_server import garbage
from textgen_server.engine.events import Events, Failure
from textgen_server.engine.executor import Executor, Step
from textgen_server.engine.plan import StepPlan, StepResult
from textgen_server.engine.request import Request
from textgen_server.engine.scheduler import Scheduler
from textgen_server.engine.statistics import Statistics
from textgen_server.errors import (
    AdapterInUse,
    GenerationError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestError,
    TextgenError,
)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _UnderWay:
    """A step that was launched, and when its planning began and ended (of time.perf_counter)."""

    plan: StepPlan
    step: Step
    started: float
    planned: float


class _Failed:
    """A step that could not be launched."""

    def __init__(self, error: GenerationError) -> None:
        self._error = error

    def result(self) -> StepResult:
        raise self._error


class EngineLoop:
    """Runs the scheduler's plans one after another until stopped or until the executor breaks.

    Args:
        adapters: those that the executor has already.

    Attributes:
        steps: so far, failed ones too.
        statistics: of these steps.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        publish: Callable[[Events], None],
        adapters: Sequence[str] = (),
    ) -> None:
        self.scheduler = scheduler
        self.steps = 0
        self._loads = len(adapters)
        self._adapters = {name: number for number, name in enumerate(adapters)}  # each with the number of its load
        self.statistics = Statistics()
        self._executor = executor
        self._publish = publish
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._step_started: float | None = None
        self._under_way: deque[_UnderWay] = deque()
        self._executed = self._published = 0.0  # when the last step's result came, and was sent off
        self._stopping = threading.Event()

    # --- called from other threads ----------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; a refusal comes back as a Failure."""
        self._inbox.put(lambda: self._add(request))

    def abort(self, key: Hashable) -> None:
        """End a request without a word; its blocks are free before the next step."""
        self._inbox.put(lambda: self._abort(key))

    def load_adapter(self, name: str, folder: Path) -> Future[None]:
        """Load an adapter before the next step. The future raises what Executor.load_adapter does."""
        return self._between_steps(lambda: self._load_adapter(name, folder))

    def unload_adapter(self, name: str) -> Future[None]:
        """Unload an adapter before the next step. The future raises AdapterInUse while requests use it."""
        return self._between_steps(lambda: self._unload_adapter(name))

    def _between_steps(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()

        def carry_out() -> None:
            try:
                work()
            except TextgenError as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._inbox.put(carry_out)
        return done

    def stop(self) -> None:
        """Leave `run` after the steps under way."""
        self._stopping.set()
        self._inbox.put(lambda: None)

    @property
    def seconds_in_step(self) -> float:
        """How long the oldest step under way has run; 0 where there is none."""
        started = self._step_started
        return 0.0 if started is None else time.monotonic() - started

    # --- the loop's own thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`. Raises whatever breaks the executor; the requests it held are failed first."""
        try:
            while not self._stopping.is_set():
                self._take_in()
                self._expire()
                planned = self._launch_next()
                self._finish_steps(but=self._executor.ahead if planned else 0)
            self._finish_steps()
        except BaseException:
            self._step_started = None
            self._empty_inbox()
            broken = GenerationError("the engine stopped")
            self._publish(Events(failures=[Failure(r.key, broken) for r in self.scheduler]))
            raise

    def _take_in(self) -> None:
        """Carry out all messages of the inbox; wait for one when there is nothing else to do."""
        if not len(self.scheduler) and not self._under_way:
            garbage.tidy(quiet=True)
            self._inbox.get()()
        self._empty_inbox()
        garbage.tidy(quiet=False)

    def _empty_inbox(self) -> None:
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            message()

    def _add(self, request: Request) -> None:
        try:
            if request.adapter:
                self._check_adapter(request)
            self.scheduler.add(request)
        except RequestError as error:
            self._publish(Events(failures=[Failure(request.key, error)]))

    def _check_adapter(self, request: Request) -> None:
        if request.adapter not in self._adapters:
            raise ModelNotFound(f"the adapter `{request.adapter}` is no longer there")
        # Its keys and values are not the base model's, nor those of what had its name before.
        request.cache_salt = f"{self._adapters[request.adapter]}\0{request.cache_salt}"

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that requests may use."""
        return list(self._adapters)

    def _load_adapter(self, name: str, folder: Path) -> None:
        if name in self._adapters:
            raise InvalidRequest(f"there is an adapter `{name}` already; unload it first, or choose another name")
        self._finish_steps()
        self._executor.load_adapter(name, folder)
        self._adapters[name] = self._loads
        self._loads += 1

    def _unload_adapter(self, name: str) -> None:
        if name not in self._adapters:
            raise ModelNotFound(f"there is no adapter `{name}`")
        users = sum(request.adapter == name for request in self.scheduler)
        if users:
            raise AdapterInUse(f"{users} requests use the adapter `{name}`; wait for them to end")
        self._finish_steps()
        self._executor.unload_adapter(name)
        del self._adapters[name]

    def _abort(self, key: Hashable) -> None:
        self.scheduler.abort(key)

    def _expire(self) -> None:
        expired = self.scheduler.expire()
        if expired:
            late = Overloaded("Model is overloaded: the request waited too long for its turn")
            self._publish(Events(failures=[Failure(request.key, late) for request in expired]))

    def _plan(self, started: float) -> StepPlan | None:
        counters = self.scheduler.counters
        running, admissions = len(self.scheduler.running), counters.admissions
        plan = self.scheduler.plan()
        joined = counters.admissions - admissions
        if joined:
            self.statistics.joined.observe(joined)
        if joined and running:
            self.statistics.join_seconds.observe(time.perf_counter() - started)
        return plan

    def _launch_next(self) -> bool:
        """Plan a step and launch it behind those under way. False when none could be planned or launched."""
        started = time.perf_counter()
        plan = self._plan(started)
        if plan is None:
            return False
        planned = time.perf_counter()
        if self._step_started is None:
            self._step_started = time.monotonic()
        step: Step
        try:
            step = self._executor.launch(plan)
        except GenerationError as error:
            step = _Failed(error)
        self._under_way.append(_UnderWay(plan, step, started, planned))
        return not isinstance(step, _Failed)

    def _finish_steps(self, but: int = 0) -> None:
        """Take the results of steps under way, the oldest first, until only `but` are."""
        while len(self._under_way) > but:
            self._finish(self._under_way.popleft())

    def _finish(self, under_way: _UnderWay) -> None:
        plan = under_way.plan
        statistics = self.statistics.methods["prefill" if plan.prefills else "decode"]
        try:
            result = under_way.step.result()
        except GenerationError as error:
            statistics.failures += 1
            _log.error("a step of %d requests failed: %s", len(plan.items), error)
            self._publish(Events(failures=[Failure(r.key, error) for r in self.scheduler.abandon()]))
            return
        finally:
            self._step_started = time.monotonic() if self._under_way else None
            self.steps += 1
        executed = time.perf_counter()
        events = self.scheduler.commit(plan, result)
        committed = time.perf_counter()
        self._publish(events)
        published = time.perf_counter()
        # A step that was launched behind another begins when that has ended.
        started, planned = max(under_way.started, self._published), max(under_way.planned, self._executed)
        statistics.observe(started, planned, executed, committed, published)
        self.scheduler.pace.observe(plan, executed - planned)
        self._executed, self._published = executed, published
