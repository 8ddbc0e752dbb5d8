"""Who carries out plans: what the loop knows of the arithmetic, and all that a test needs to stand in for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from textgen_server.engine.plan import StepPlan, StepResult


class Step(Protocol):
    """A step that was launched."""

    def result(self) -> StepResult:
        """Wait for its end. Called once, oldest step first.

        Raises:
            GenerationError: this step failed but the executor is sound: its requests end, others go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that ran as it was launched."""

    outcome: StepResult

    def result(self) -> StepResult:
        """See Step."""
        return self.outcome


class Executor(Protocol):
    """Carries out plans on the device, in the order in which they are launched.

    Attributes:
        ahead: how many steps are launched before the oldest one's result is taken: 1 where a device works while the
            host plans, 0 where a step runs in `launch`.
    """

    @property
    def ahead(self) -> int: ...

    def launch(self, plan: StepPlan) -> Step:
        """Begin a step behind those under way. The plan's lists may change as soon as this returns.

        Raises:
            GenerationError: as `Step.result`. No step is launched before all those under way have ended then.
        """
        ...

    def load_adapter(self, name: str, folder: Path) -> None:
        """Make an adapter ready for requests; no step is under way. Raises TextgenError when it cannot be used;
        nothing has changed then."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; no step is under way."""
        ...
