"""What was observed -> conditions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from operator_samples import custom_resource, service

from textgen_operator.diagnosis import Evidence
from textgen_operator.kinds import Manifest
from textgen_operator.status import Intent, Observed, Obstacle, next_look, status_of
from textgen_operator.status.progress import Progress

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
STAMP = "2026-01-01T12:00:00Z"
ONE_READY = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
ROLLED_OUT = {"observedGeneration": 2, "currentRevision": "b", "updateRevision": "b"}


def statefulset(wanted: int = 1, **status: Any) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"generation": 2},
        "spec": {"replicas": wanted},
        "status": status,
    }


def pod(**status: Any) -> Manifest:
    return {"metadata": {"name": "chat-0"}, "status": status}


def resource(generation: int = 1, **status: Any) -> Manifest:
    return custom_resource() | {
        "status": status,
        "metadata": {"name": "chat", "namespace": "models", "generation": generation},
    }


def conditions(observed: Observed) -> str:
    """ "Status/Reason" of each condition, and the phase."""
    status = status_of(resource(), observed, NOW)
    return " ".join([*(f"{found['status']}/{found['reason']}" for found in status["conditions"]), status["phase"]])


def pods(**status: Any) -> Evidence:
    return Evidence([pod(**status)])


LOADING = {"containerStatuses": [{"ready": False, "state": {"running": {}}}]}
GATED = '{"message": "org/model is gated: accept its terms", "error_type": "model_gated"}'
REFUSED = {"terminated": {"exitCode": 1, "message": GATED, "finishedAt": "2026-01-01T11:00:00Z"}}
DOWNLOADING = Progress("chat-0", "downloading", "org/model", 30, 100)
WEIGHTS_THERE = Progress("chat-0", "loading", "llama", 30, 100)

# Accepted, ModelReady, Scheduled, Progressing, Available, Ready, and the phase.
CASES: dict[str, tuple[Observed, str]] = {
    "just created": (
        Observed(statefulset()),
        "True/Accepted Unknown/NoPods Unknown/Pending True/RollingOut False/NoReadyPods False/RollingOut Pending",
    ),
    "ready": (
        Observed(statefulset(**ONE_READY, **ROLLED_OUT)),
        "True/Accepted True/Loaded True/Scheduled False/RolloutComplete True/ReadyPods True/Ready Ready",
    ),
    "the StatefulSet's controller has not looked yet": (
        Observed(statefulset(**ONE_READY, **(ROLLED_OUT | {"observedGeneration": 1}))),
        "True/Accepted Unknown/NoPods Unknown/Pending True/RollingOut True/ReadyPods False/RollingOut Updating",
    ),
    "the old pod still answers": (
        Observed(statefulset(**(ONE_READY | {"updatedReplicas": 0}), **(ROLLED_OUT | {"updateRevision": "c"}))),
        "True/Accepted Unknown/NoPods Unknown/Pending True/RollingOut True/ReadyPods False/RollingOut Updating",
    ),
    "one of two answers": (
        Observed(statefulset(2, replicas=2, readyReplicas=1, updatedReplicas=2, **ROLLED_OUT)),
        "True/Accepted Unknown/NoPods Unknown/Pending True/RollingOut True/ReadyPods False/RollingOut Updating",
    ),
    "too many pods": (
        Observed(statefulset(1, replicas=2, readyReplicas=2, updatedReplicas=2, **ROLLED_OUT)),
        "True/Accepted Unknown/NoPods Unknown/Pending True/RollingOut True/ReadyPods False/RollingOut Updating",
    ),
    "scaled to zero": (
        Observed(statefulset(0, replicas=0, **ROLLED_OUT)),
        "True/Accepted Unknown/NoPods Unknown/NoPods False/ScaledToZero False/ScaledToZero False/ScaledToZero Idle",
    ),
    "no node": (
        Observed(statefulset(replicas=1), pods(conditions=[{"type": "PodScheduled", "status": "False"}])),
        "True/Accepted Unknown/NoPods False/Unschedulable False/RolloutBlocked False/NoReadyPods False/Unschedulable "
        "Pending",
    ),
    "looking for the model": (
        Observed(statefulset(replicas=1), pods(**LOADING)),
        "True/Accepted False/Resolving Unknown/Pending True/RollingOut False/NoReadyPods False/Starting Loading",
    ),
    "downloading": (
        Observed(statefulset(replicas=1), pods(**LOADING), progress=DOWNLOADING),
        "True/Accepted False/Downloading Unknown/Pending True/RollingOut False/NoReadyPods False/Starting Downloading",
    ),
    "loading": (
        Observed(statefulset(replicas=1), pods(**LOADING), progress=WEIGHTS_THERE),
        "True/Accepted True/Cached Unknown/Pending True/RollingOut False/NoReadyPods False/Starting Loading",
    ),
    "no right to the model": (
        Observed(statefulset(replicas=1), pods(containerStatuses=[{"ready": False, "state": REFUSED}])),
        "True/Accepted False/GatedModel Unknown/Pending False/RolloutBlocked False/NoReadyPods False/GatedModel Failed",
    ),
    "a wrong spec, while the old one runs": (
        Observed(statefulset(**ONE_READY, **ROLLED_OUT), obstacle=Obstacle("InvalidSpec", "spec.x: no")),
        "False/InvalidSpec True/Loaded True/Scheduled False/InvalidSpec True/ReadyPods False/InvalidSpec Degraded",
    ),
    "refused by the API server": (
        Observed(None, obstacle=Obstacle("ReconcileError", "quota", accepted=True)),
        "True/Accepted Unknown/NoPods Unknown/NoPods False/ReconcileError False/NoReadyPods False/ReconcileError "
        "Failed",
    ),
}


@pytest.mark.parametrize(("observed", "expected"), CASES.values(), ids=CASES)
def test_all_conditions_and_the_phase_follow_from_what_is_there(observed: Observed, expected: str) -> None:
    assert conditions(observed) == expected


def test_the_status_is_about_the_generation_that_was_looked_at() -> None:
    status = status_of(resource(generation=7), Observed(statefulset()), NOW)
    assert status["observedGeneration"] == 7
    assert {condition["observedGeneration"] for condition in status["conditions"]} == {7}


def test_counts_selector_and_address_are_reported() -> None:
    counts = {"replicas": 3, "readyReplicas": 1, "updatedReplicas": 2}
    intent = Intent(service(), "http://chat.models.svc", ("spec.hostNetwork",))
    status = status_of(resource(), Observed(statefulset(3, **counts), shards=4, intent=intent), NOW)
    assert {name: status[name] for name in counts} == counts
    assert status["shards"] == 4
    assert (status["url"], status["overrides"]) == ("http://chat.models.svc", ["spec.hostNetwork"])
    # Of a spec that is not valid, there is no address: what the last valid one said stays.
    after = status_of(resource() | {"status": status}, Observed(statefulset(3)), NOW)
    assert (after["url"], after["overrides"]) == (status["url"], status["overrides"])
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
        "ModelReady": "2026-01-01T12:05:00Z",
        "Scheduled": "2026-01-01T12:05:00Z",
        "Available": "2026-01-01T12:05:00Z",
        "Progressing": "2026-01-01T12:05:00Z",
        "Ready": "2026-01-01T12:05:00Z",
    }


def test_nothing_new_gives_the_same_status() -> None:
    observed = Observed(statefulset(**ONE_READY, **ROLLED_OUT))
    first = status_of(resource(), observed, NOW)
    assert status_of(resource(**first), observed, NOW + timedelta(hours=1)) == first


def test_how_far_the_server_is_that_loads_is_told() -> None:
    progress = Progress("chat-0", "downloading", "org/model", 3_400_000_000, 10_000_000_000, 500_000_000, 13.2)
    status = status_of(resource(), Observed(statefulset(replicas=1), pods(**LOADING), progress=progress), NOW)
    assert status["load"] == {
        "stage": "Downloading",
        "percent": 34,
        "totalBytes": 10_000_000_000,
        "bytesPerSecond": 500_000_000,
        "remainingSeconds": 13,
    }
    assert status["conditions"][-1]["message"] == "Pod chat-0 is downloading org/model: 34 %, 3.4 of 10.0 GB"
    assert "load" not in status_of(resource(**status), Observed(statefulset(**ONE_READY, **ROLLED_OUT)), NOW)


def test_the_last_failure_stays_when_its_conditions_have_gone() -> None:
    crashed = {"name": "server", "ready": False, "restartCount": 2, "state": {"running": {}}, "lastState": REFUSED}
    failed = status_of(resource(), Observed(statefulset(), pods(containerStatuses=[crashed])), NOW)
    recovered = status_of(resource(**failed), Observed(statefulset(**ONE_READY, **ROLLED_OUT)), NOW)
    assert [condition["status"] for condition in recovered["conditions"]].count("True") == 5
    assert recovered["lastFailure"] == {
        "pod": "chat-0",
        "container": "server",
        "reason": "GatedModel",
        "exitCode": 1,
        "message": "Pod chat-0 exited with code 1: org/model is gated: accept its terms",
        "time": "2026-01-01T11:00:00Z",
        "count": 2,
    }


@pytest.mark.parametrize(
    ("observed", "age", "seconds"),
    [
        (Observed(statefulset(**ONE_READY, **ROLLED_OUT)), 0, None),
        (Observed(statefulset(0, replicas=0, **ROLLED_OUT)), 0, None),
        (Observed(statefulset(replicas=1), pods(**LOADING)), 0, 10),
        (Observed(statefulset(replicas=1)), 0, 30),
        (Observed(obstacle=Obstacle("SecretNotFound", "hf")), 0, 1),
        (Observed(obstacle=Obstacle("SecretNotFound", "hf")), 7, 7),
        (Observed(obstacle=Obstacle("SecretNotFound", "hf")), 3600, 30),
    ],
)
def test_what_no_watch_tells_of_is_looked_at_again(observed: Observed, age: int, seconds: float | None) -> None:
    assert next_look(observed, status_of(resource(), observed, NOW), NOW + timedelta(seconds=age)) == seconds


def test_how_many_replicas_have_the_weights_and_where_is_told() -> None:
    counts = {"replicas": 3, "readyReplicas": 1, "updatedReplicas": 3}
    known = resource(model={"name": "org/model", "sizeBytes": 7})
    intent = Intent(service(cache={"type": "PerReplica"}), "")
    loads = Observed(statefulset(3, **counts), pods(**LOADING), intent=intent, progress=WEIGHTS_THERE)
    status = status_of(known, loads, NOW)
    assert (status["model"]["cached"], status["cache"]) == ("2/3", {"type": "PerReplica"})
    fetches = Observed(statefulset(3, **counts), pods(**LOADING), progress=DOWNLOADING)
    status = status_of(resource(**status), fetches, NOW)
    assert (status["model"]["cached"], status["cache"]) == ("1/3", {"type": "PerReplica"})
    assert status_of(known, Observed(intent=Intent(service(), "")), NOW)["cache"] == {"type": "Ephemeral"}


def test_every_way_to_reach_a_service_is_listed() -> None:
    network = {
        "ingress": {"hostname": "chat.test", "tlsSecretName": "cert"},
        "route": {"parentRefs": [{"name": "gateway"}], "hostnames": ["llm.test"]},
    }
    intent = Intent(service(network=network), "http://chat.models.svc")
    status = status_of(resource(), Observed(statefulset(), intent=intent), NOW)
    assert status["addresses"] == ["http://chat.models.svc", "https://chat.test", "llm.test"]


def test_the_model_that_a_server_found_is_kept_until_another_is_asked_for() -> None:
    found = Progress("chat-0", "located", "org/model", 7, 7, revision="abc")
    first = status_of(resource(), Observed(statefulset(), located=found), NOW)
    assert first["model"] == {"name": "org/model", "resolvedRevision": "abc", "sizeBytes": 7, "cached": "0/1"}
    assert status_of(resource(**first), Observed(statefulset()), NOW)["model"] == first["model"]
    other = resource(**first)
    other["spec"]["model"] = "org/other"
    assert "model" not in status_of(other, Observed(statefulset()), NOW)
