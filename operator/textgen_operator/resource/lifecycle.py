"""How a replica starts, ends and is replaced."""

from typing import ClassVar, Literal

from pydantic import Field

from textgen_operator.rules import Part, Rule


class Startup(Part):
    """How long a replica may take to start."""

    timeout_seconds: int = Field(default=3600, ge=60, le=86400)
    """Seconds for download, conversion and loading, after which the replica is started anew."""


class Drain(Part):
    """How a replica ends."""

    pre_stop_seconds: int = Field(default=10, ge=0, le=300)
    """Seconds in which it still takes requests, while the cluster learns that it is leaving."""

    timeout_seconds: int = Field(default=120, ge=0, le=3600)
    """Seconds in which running requests may finish."""


class Rollout(Part):
    """How pods are replaced when the spec changes."""

    strategy: Literal["Rolling", "Recreate", "OnDelete", "Surge"] = "Rolling"
    """Rolling: one at a time, each deleted before its successor is made, so that no spare GPU is needed. Surge: one pod
    more than `replicas` for a while, so that never fewer answer; needs GPUs for it. Recreate: all deleted, then all
    made. OnDelete: whenever somebody deletes them."""

    partition: int = Field(default=0, ge=0, le=1000)
    """Rolling: pods with a lower number keep the spec that they have."""

    paused: bool = False
    """Pods keep the spec that they have, until this is false again."""

    wait_for_idle_seconds: int = Field(default=0, ge=0, le=86400)
    """Rolling: most seconds for which a pod is waited for to answer no request, before it is replaced."""

    progress_deadline_seconds: int = Field(default=3600, ge=1, le=604800)
    """Seconds without any progress after which condition Progressing says ProgressDeadlineExceeded; nothing else comes
    of it. What pods that go may take (waitForIdleSeconds, drain) is added."""

    on_operator_upgrade: Literal["Defer", "Roll"] = "Defer"
    """Whether an operator that renders other pods, or that has another default image, replaces pods at once, or with
    the next change of the spec."""

    on_secret_change: Literal["Roll", "Keep"] = "Roll"
    """Whether pods are replaced when a secret changes that they read into their environment."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "rollout.partition and rollout.waitForIdleSeconds are for rollout.strategy Rolling, and only one of them",
            "(self.partition == 0 && self.waitForIdleSeconds == 0) || "
            "(self.strategy == 'Rolling' && (self.partition == 0 || self.waitForIdleSeconds == 0))",
            lambda rollout: (
                (rollout.partition == 0 and rollout.wait_for_idle_seconds == 0)
                or (rollout.strategy == "Rolling" and (rollout.partition == 0 or rollout.wait_for_idle_seconds == 0))
            ),
            ".strategy",
        ),
    )
