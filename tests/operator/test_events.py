"""What happened -> events."""

from typing import Any

import pytest
from operator_samples import custom_resource

from textgen_operator.events import Change, Event, events_of, manifest_of, name_of
from textgen_operator.kinds import Manifest

NOW = "2026-01-01T00:00:00Z"


def resource(generation: int = 1, uid: str = "uid", **status: Any) -> Manifest:
    meta = {"name": "chat", "namespace": "models", "generation": generation, "uid": uid}
    return custom_resource() | {"metadata": meta, "status": status}


def status(generation: int = 1, ready: int = 0, failure: Manifest | None = None, **conditions: str) -> Manifest:
    """A status; conditions as "Status/Reason: message"."""
    written = []
    for kind, text in conditions.items():
        turn, _, message = text.partition(": ")
        written.append({"type": kind, "status": turn.split("/")[0], "reason": turn.split("/")[1], "message": message})
    found: Manifest = {"observedGeneration": generation, "readyReplicas": ready, "conditions": written}
    return found | ({"lastFailure": failure} if failure else {})


def statefulset(version: str, replicas: int = 1) -> Manifest:
    meta = {"name": "chat", "resourceVersion": version, "generation": 1}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": {"replicas": replicas}}


def reasons(before: Manifest, after: Manifest) -> list[str]:
    return [event.reason for event in events_of(resource(**before), after, [])]


ROLLING = {"currentRevision": "a", "updateRevision": "b"}
ROLLED = {"currentRevision": "b", "updateRevision": "b"}
STARTING = status(Ready="False/Starting: Pod chat-0 loads the model", Progressing="True/RollingOut")
READY = status(ready=1, Ready="True/Ready", Progressing="False/RolloutComplete")
UPDATING = ROLLING | status(2, ready=1, Ready="False/RollingOut", Progressing="True/RollingOut")
UNSCHEDULABLE = ROLLING | status(
    ready=1, Ready="False/Unschedulable: no GPU", Progressing="False/RolloutBlocked: no GPU"
)
FAILURE = {"reason": "OOMKilled", "message": "ran out of memory", "time": NOW, "count": 1}
CRASHED = status(failure=FAILURE, Ready="False/OOMKilled: ran out of memory")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, STARTING, []),
        (STARTING, READY, ["BecameReady"]),
        (READY | {"currentRevision": "a", "updateRevision": "a"}, UPDATING, ["RolloutStarted"]),
        (UPDATING, READY | ROLLED, ["RolloutCompleted", "BecameReady"]),
        (UPDATING, STARTING, []),  # made anew: its controller has named no revision yet
        (STARTING, STARTING | ROLLED, []),
        (UPDATING, UNSCHEDULABLE, ["Unschedulable", "RolloutBlocked"]),
        (STARTING, status(Ready="False/ImagePullBackOff: x"), ["ImagePullFailed"]),
        (STARTING, status(Ready="False/SecretNotFound: hf"), ["SecretNotFound"]),
        (STARTING, CRASHED, ["ContainerOOMKilled"]),
        (
            CRASHED,
            status(failure=FAILURE | {"count": 2}, Ready="False/OOMKilled: ran out of memory"),
            ["ContainerOOMKilled"],
        ),
        (READY, status(Ready="False/ProbeFailing: Pod chat-0 does not answer"), ["NotReady"]),
        (READY, STARTING, ["NotReady"]),
        (STARTING, STARTING | status(MemorySufficient="False/ModelTooLarge: 7b"), ["ModelTooLarge"]),
        (status(ModelReady="False/Downloading"), status(ModelReady="True/Cached"), ["ModelDownloaded"]),
    ],
)
def test_a_turn_of_the_status_is_told(before: Manifest, after: Manifest, expected: list[str]) -> None:
    assert reasons(before, after) == expected
    assert reasons(after, after) == []


@pytest.mark.parametrize(
    ("service", "change", "expected"),
    [
        (resource(), Change(None, statefulset("1")), ["Created"]),
        (resource(2, observedGeneration=1), Change(statefulset("1"), statefulset("2")), ["Updated"]),
        (resource(observedGeneration=1), Change(statefulset("1"), statefulset("2")), ["DriftCorrected"]),
        (resource(observedGeneration=1), Change(None, statefulset("2")), ["DriftCorrected"]),
        (resource(observedGeneration=1), Change(statefulset("1"), statefulset("2"), adopted=True), ["Adopted"]),
        (resource(2, observedGeneration=1), Change(statefulset("1"), None), ["StatefulSetRecreated"]),
        (resource(2, observedGeneration=1), Change(statefulset("1"), statefulset("2", 3)), ["Scaled", "Updated"]),
        (resource(observedGeneration=1), Change(statefulset("1"), statefulset("1")), []),
    ],
)
def test_a_write_is_told(service: Manifest, change: Change, expected: list[str]) -> None:
    assert [event.reason for event in events_of(service, service["status"], [change])] == expected


def test_what_happens_again_is_counted_and_not_told_anew() -> None:
    event = Event("Warning", "CrashLoop", "Pod chat-0 exited with code 1")
    first = manifest_of(resource(), event, None, NOW)
    again = manifest_of(resource(), event, first, "2026-01-01T00:05:00Z")
    assert first["metadata"] == again["metadata"]
    assert (first["count"], again["count"]) == (1, 2)
    assert (again["firstTimestamp"], again["lastTimestamp"]) == (NOW, "2026-01-01T00:05:00Z")
    assert name_of(resource(uid="another"), event) != first["metadata"]["name"]
    assert name_of(resource(), Event("Warning", "CrashLoop", "else")) != first["metadata"]["name"]
