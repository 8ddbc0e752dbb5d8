"""One condition, as the files of this package conclude it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from textgen_operator.kinds import Manifest
from textgen_operator.resource import Condition

_LONGEST_MESSAGE = 4096
"""Characters of a message that the definition takes."""


@dataclass(frozen=True)
class Verdict:
    """A condition without its times."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str

    def condition(self, generation: int, before: Mapping[str, Manifest], stamp: str) -> Manifest:
        """The condition.

        Args:
            generation: of the spec that was looked at.
            before: the conditions of the last look, by type.
            stamp: when it was looked at; since then the condition holds, unless it did before.
        """
        old = before.get(self.type, {})
        condition = Condition.model_validate(
            {
                "type": self.type,
                "status": self.status,
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == self.status else stamp,
                "reason": self.reason,
                "message": self.message[:_LONGEST_MESSAGE],
            }
        )
        return condition.model_dump(by_alias=True)


def as_stamp(now: datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
