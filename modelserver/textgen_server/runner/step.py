"""Steps that were launched: what is on its way to the host, and becomes a result. Made by the runner."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from textgen_server.engine.plan import Scores, StepPlan, StepResult
from textgen_server.runner.sampler import Chosen, Scored


@dataclass(frozen=True)
class Pass:
    """One forward pass of the items of `plan`: the whole step, or a part of one that did not fit as a whole.

    Attributes:
        chosen: None where nothing was to be chosen, and on ranks that do not choose.
        scored: for each item that has targets, in order, some rows at a time.
        failed: memory did not suffice for its one item.
    """

    plan: StepPlan
    chosen: Chosen | None = None
    scored: list[list[Scored]] = field(default_factory=list)
    failed: bool = False

    def read(self) -> StepResult:
        """Wait for it."""
        if self.failed:
            return StepResult([], [], failed=[0])
        result = StepResult([], []) if self.chosen is None else self.chosen.read()
        return replace(result, scores=[_joined([part.read() for part in parts]) for parts in self.scored])

    def kept(self) -> "Pass":
        """The same, with tokens that stay where they are on the device when others are chosen."""
        if self.chosen is None:
            return self
        return replace(self, chosen=replace(self.chosen, tokens=self.chosen.tokens.clone()))

    def tokens(self, device: torch.device) -> Tensor:
        """[N] int64, of all choices of the plan, with zeros for those that were not made."""
        if self.chosen is not None:
            return self.chosen.tokens
        count = sum(item.drafts + 1 for item in self.plan.items if item.sample is not None)
        return torch.zeros(count, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class LaunchedStep:
    """See engine.executor.Step. `passes` are of its items in order."""

    passes: Sequence[Pass]

    def result(self) -> StepResult:
        """See engine.executor.Step."""
        result, count = self.passes[0].read(), len(self.passes[0].plan.items)
        for part in self.passes[1:]:
            result = result.followed_by(part.read(), count)
            count += len(part.plan.items)
        return result


def _joined(parts: list[Scores]) -> Scores:
    return Scores([x for part in parts for x in part.logprobs], [top for part in parts for top in part.tops])
