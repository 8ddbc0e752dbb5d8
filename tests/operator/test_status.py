"""What was observed -> conditions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from operator_samples import custom_resource

from textgen_operator.kinds import Manifest
from textgen_operator.status import Observed, Obstacle, status_of

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
STAMP = "2026-01-01T12:00:00Z"
ONE_READY = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
ROLLED_OUT = {"observedGeneration": 2, "currentRevision": "b", "updateRevision": "b"}


def statefulset(wanted: int = 1, **status: Any) -> Manifest:
    return {"metadata": {"generation": 2}, "spec": {"replicas": wanted}, "status": status}


def pod(**status: Any) -> Manifest:
    return {"metadata": {"name": "chat-0"}, "status": status}


def resource(generation: int = 1, **status: Any) -> Manifest:
    return custom_resource() | {
        "status": status,
        "metadata": {"name": "chat", "namespace": "models", "generation": generation},
    }


def conditions(observed: Observed) -> dict[str, str]:
    """Condition -> "Status/Reason"."""
    status = status_of(resource(), observed, NOW)
    return {found["type"]: f"{found['status']}/{found['reason']}" for found in status["conditions"]}


CASES: dict[str, tuple[Observed, dict[str, str]]] = {
    "just created": (
        Observed(statefulset()),
        {"Accepted": "True/Accepted", "Available": "False/NoReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/RollingOut"},
    ),
    "ready": (
        Observed(statefulset(**ONE_READY, **ROLLED_OUT)),
        {"Accepted": "True/Accepted", "Available": "True/ReadyPods", "Progressing": "False/RolloutComplete",
         "Ready": "True/Ready"},
    ),
    "the StatefulSet's controller has not looked yet": (
        Observed(statefulset(**ONE_READY, **(ROLLED_OUT | {"observedGeneration": 1}))),
        {"Accepted": "True/Accepted", "Available": "True/ReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/RollingOut"},
    ),
    "the old pod still answers": (
        Observed(statefulset(**(ONE_READY | {"updatedReplicas": 0}), **(ROLLED_OUT | {"updateRevision": "c"}))),
        {"Accepted": "True/Accepted", "Available": "True/ReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/RollingOut"},
    ),
    "one of two answers": (
        Observed(statefulset(2, replicas=2, readyReplicas=1, updatedReplicas=2, **ROLLED_OUT)),
        {"Accepted": "True/Accepted", "Available": "True/ReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/RollingOut"},
    ),
    "too many pods": (
        Observed(statefulset(1, replicas=2, readyReplicas=2, updatedReplicas=2, **ROLLED_OUT)),
        {"Accepted": "True/Accepted", "Available": "True/ReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/RollingOut"},
    ),
    "scaled to zero": (
        Observed(statefulset(0, replicas=0, **ROLLED_OUT)),
        {"Accepted": "True/Accepted", "Available": "False/ScaledToZero", "Progressing": "False/ScaledToZero",
         "Ready": "False/ScaledToZero"},
    ),
    "no node": (
        Observed(statefulset(replicas=1), [pod(conditions=[{"type": "PodScheduled", "status": "False"}])]),
        {"Accepted": "True/Accepted", "Available": "False/NoReadyPods", "Progressing": "False/RolloutBlocked",
         "Ready": "False/Unschedulable"},
    ),
    "loading": (
        Observed(statefulset(replicas=1), [pod(containerStatuses=[{"ready": False, "state": {"running": {}}}])]),
        {"Accepted": "True/Accepted", "Available": "False/NoReadyPods", "Progressing": "True/RollingOut",
         "Ready": "False/Starting"},
    ),
    "a wrong spec, while the old one runs": (
        Observed(statefulset(**ONE_READY, **ROLLED_OUT), obstacle=Obstacle("InvalidSpec", "spec.x: no")),
        {"Accepted": "False/InvalidSpec", "Available": "True/ReadyPods", "Progressing": "False/InvalidSpec",
         "Ready": "False/InvalidSpec"},
    ),
    "refused by the API server": (
        Observed(None, obstacle=Obstacle("ReconcileError", "quota", accepted=True)),
        {"Accepted": "True/Accepted", "Available": "False/NoReadyPods", "Progressing": "False/ReconcileError",
         "Ready": "False/ReconcileError"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("observed", "expected"), CASES.values(), ids=CASES)
def test_all_conditions_follow_from_what_is_there(observed: Observed, expected: dict[str, str]) -> None:
    assert conditions(observed) == expected


def test_the_status_is_about_the_generation_that_was_looked_at() -> None:
    status = status_of(resource(generation=7), Observed(statefulset()), NOW)
    assert status["observedGeneration"] == 7
    assert {condition["observedGeneration"] for condition in status["conditions"]} == {7}


def test_counts_selector_and_address_are_reported() -> None:
    counts = {"replicas": 3, "readyReplicas": 1, "updatedReplicas": 2}
    status = status_of(resource(), Observed(statefulset(3, **counts), shards=4), NOW)
    assert {name: status[name] for name in counts} == counts
    assert status["shards"] == 4
    assert status["url"] == "http://chat.models.svc"
    assert "app.kubernetes.io/instance=chat" in status["selector"]


def test_without_children_every_count_is_zero_not_absent() -> None:
    status = status_of(resource(), Observed(), NOW)
    assert [status[name] for name in ("replicas", "readyReplicas", "updatedReplicas")] == [0, 0, 0]


def test_a_condition_keeps_its_time_until_its_status_turns() -> None:
    first = status_of(resource(), Observed(statefulset()), NOW)
    later = NOW + timedelta(minutes=5)
    second = status_of(resource(**first), Observed(statefulset(**ONE_READY, **ROLLED_OUT)), later)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in second["conditions"]}
    assert times == {
        "Accepted": STAMP,
        "Available": "2026-01-01T12:05:00Z",
        "Progressing": "2026-01-01T12:05:00Z",
        "Ready": "2026-01-01T12:05:00Z",
    }


def test_nothing_new_gives_the_same_status() -> None:
    observed = Observed(statefulset(**ONE_READY, **ROLLED_OUT))
    first = status_of(resource(), observed, NOW)
    assert status_of(resource(**first), observed, NOW + timedelta(hours=1)) == first
