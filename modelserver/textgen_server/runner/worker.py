"""Rank 0 sends each plan to all other ranks, every rank runs it, none answers.

Plans go through sockets of their own (pipes.py) rather than through a collective: a rank may wait for hours for the
next plan, and learns at once when the other end is gone.
"""

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from textgen_server.engine.executor import Step
from textgen_server.engine.plan import Sample, StepPlan
from textgen_server.errors import InvalidRequest
from textgen_server.runner.pipes import Address, connect
from textgen_server.runner.runner import Runner
from textgen_server.sampling import SamplingParams

_log = logging.getLogger(__name__)


class ShardedExecutor:
    """Rank 0's executor: the other ranks run the same plan at the same time."""

    def __init__(self, runner: Runner, workers: Sequence[Connection]) -> None:
        self._runner = runner
        self._workers = workers

    @property
    def ahead(self) -> int:
        """See engine.executor.Executor."""
        return self._runner.ahead

    def launch(self, plan: StepPlan) -> Step:
        """See engine.executor.Executor. Raises OSError when a worker is gone."""
        if self._workers:
            self._send(_without_history(plan))
        return self._runner.launch(plan)

    def load_adapter(self, name: str, folder: Path) -> None:
        """See engine.executor.Executor."""
        self._send(AdapterOrder(name, folder))  # first: the ranks tell each other whether all of them could
        self._runner.load_adapter(name, folder)

    def unload_adapter(self, name: str) -> None:
        """See engine.executor.Executor."""
        self._runner.unload_adapter(name)
        self._send(AdapterOrder(name, None))

    def _send(self, order: "StepPlan | AdapterOrder") -> None:
        if self._workers:
            message = pickle.dumps(order, protocol=pickle.HIGHEST_PROTOCOL)
            for worker in self._workers:
                worker.send_bytes(message)


@dataclass(frozen=True, slots=True)
class AdapterOrder:
    """Load an adapter from a folder, or unload it when there is none."""

    name: str
    folder: Path | None


def _without_history(plan: StepPlan) -> StepPlan:
    """Workers choose no tokens: they need to know which rows are sampled, but not how."""
    items = [replace(item, sample=_MARK) if item.sample else item for item in plan.items]
    return StepPlan(items, plan.num_decodes)


_MARK = Sample(SamplingParams(), 0)


def obey(runner: Runner, address: Address, key: bytes) -> None:
    """Other ranks: run every plan that rank 0 sends, until it hangs up."""
    with connect(address, key) as pipe:
        while True:
            try:
                message = pipe.recv_bytes()
            except EOFError:
                return
            match pickle.loads(message):
                case StepPlan() as plan:
                    runner.launch(plan).result()
                case AdapterOrder(name, None):
                    runner.unload_adapter(name)
                case AdapterOrder(name, Path() as folder):
                    try:
                        runner.load_adapter(name, folder)
                    except InvalidRequest as error:  # no rank has it then, and rank 0 has told the client
                        _log.warning("the adapter %s was not loaded: %s", name, error)
