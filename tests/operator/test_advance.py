"""When a rollout counts as held up: the clock of rollout.progressDeadlineSeconds."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from operator_samples import custom_resource, service

from textgen_operator.diagnosis import Evidence
from textgen_operator.kinds import Manifest
from textgen_operator.status import Intent, Observed, Obstacle, status_of
from textgen_operator.status.progress import Progress

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
HALF, LATE = timedelta(seconds=50), timedelta(seconds=111)
SPEC: dict[str, Any] = {"drain": {"preStopSeconds": 0, "timeoutSeconds": 10}}
"""With a deadline of 100 seconds, a rollout may stand still for 110."""


class Rollout:
    """A service that is looked at again and again."""

    def __init__(self, **spec: Any) -> None:
        rollout = {"progressDeadlineSeconds": 100, **spec.pop("rollout", {})}
        self.service = service(**SPEC, rollout=rollout, **spec)
        self.now = NOW
        self.generation = 1
        self.status: Manifest = {}

    def look(self, after: timedelta, *pods: Manifest, **seen: Any) -> tuple[str, str]:
        """Reason and message of Progressing, once so much more time has passed."""
        self.now += after
        counts = {"updateRevision": "b", "observedGeneration": 1, **seen.pop("counts", {})}
        statefulset = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"generation": 1},
            "spec": {"replicas": 2},
            "status": counts,
        }
        observed = Observed(statefulset, Evidence(list(pods)), intent=Intent(self.service, ""), **seen)
        meta = {"name": "chat", "namespace": "models", "generation": self.generation}
        self.status = status_of(custom_resource() | {"metadata": meta, "status": self.status}, observed, self.now)
        (found,) = [each for each in self.status["conditions"] if each["type"] == "Progressing"]
        return found["reason"], found["message"]


def loading(percent: int, restarts: int = 0) -> dict[str, Any]:
    pod = {
        "metadata": {"name": "chat-0"},
        "status": {"containerStatuses": [{"ready": False, "state": {"running": {}}, "restartCount": restarts}]},
    }
    return {"evidence": pod, "progress": Progress("chat-0", "loading", "llama", percent, 100)}


def test_a_rollout_that_stands_still_for_too_long_is_said_to_once() -> None:
    rollout = Rollout()
    assert rollout.look(HALF)[0] == "RollingOut"
    assert rollout.look(HALF)[0] == "RollingOut"
    reason, message = rollout.look(LATE)
    assert reason == "ProgressDeadlineExceeded"
    assert "since 2026-01-01T12:00:50Z: rollout.progressDeadlineSeconds is 100; 0 of 2 pods are up to date" in message
    said = rollout.status
    rollout.look(LATE)
    assert rollout.status == said
    assert rollout.look(HALF, counts={"updatedReplicas": 1})[0] == "RollingOut"
    whole = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
    assert rollout.look(LATE, counts=whole)[0] == "RolloutComplete"
    assert "progressedAt" not in rollout.status


@pytest.mark.parametrize(
    "step",
    [
        {"counts": {"updatedReplicas": 1}},
        {"counts": {"readyReplicas": 1}},
        {"counts": {"updateRevision": "c"}},
        {"generation": 2},
        {"percent": 2},
    ],
    ids=str,
)
def test_each_step_begins_the_time_anew(step: dict[str, Any]) -> None:
    rollout = Rollout()
    seen = loading(1)
    rollout.look(HALF, seen.pop("evidence"), **seen)
    rollout.generation = step.get("generation", 1)
    seen = loading(step.get("percent", 1))
    counts = {"counts": step.get("counts", {})}
    rollout.look(timedelta(seconds=105), seen.pop("evidence"), **seen, **counts)
    seen = loading(step.get("percent", 1))
    assert rollout.look(HALF, seen.pop("evidence"), **seen, **counts)[0] == "RollingOut"


def test_what_is_loaded_again_after_a_crash_is_no_step() -> None:
    rollout = Rollout()
    for percent in (1, 50, 1, 50):
        seen = loading(percent, restarts=1)
        found = rollout.look(HALF, seen.pop("evidence"), **seen)
    assert found[0] == "ProgressDeadlineExceeded"


@pytest.mark.parametrize(
    ("spec", "seen", "reason"),
    [
        ({"rollout": {"paused": True}}, {}, "Paused"),
        ({"rollout": {"partition": 2}}, {"counts": {"replicas": 2, "readyReplicas": 2}}, "Paused"),
        ({"rollout": {"strategy": "OnDelete"}}, {"counts": {"replicas": 2, "readyReplicas": 2}}, "Paused"),
        ({"rollout": {"strategy": "OnDelete"}}, {}, "ProgressDeadlineExceeded"),
        ({"rollout": {"waitForIdleSeconds": 900}}, {}, "RollingOut"),
        ({}, {"obstacle": Obstacle("Downloading", "x", accepted=True)}, "Downloading"),
    ],
    ids=str,
)
def test_what_waits_for_somebody_or_something_is_not_late(
    spec: dict[str, Any], seen: dict[str, Any], reason: str
) -> None:
    rollout = Rollout(**spec)
    rollout.look(HALF, **seen)
    assert rollout.look(LATE, **seen)[0] == reason
    # Nor has the time of waiting been counted when that is over.
    if reason == "Downloading":
        assert rollout.look(HALF)[0] == "RollingOut"
