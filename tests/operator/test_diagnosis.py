"""Pods -> why they do not serve."""

from typing import Any

import pytest

from textgen_operator.diagnosis import Diagnosis, Evidence
from textgen_operator.diagnosis import diagnose as diagnose_evidence
from textgen_operator.diagnosis.lastwords import LONGEST
from textgen_operator.kinds import Manifest


def pod(name: str = "chat-0", *, ready: bool = False, leaving: bool = False, **status: Any) -> Manifest:
    """A pod with one container in the state given; `conditions` are the pod's own."""
    meta = {"name": name} | ({"deletionTimestamp": "1970-01-01T00:00:00Z"} if leaving else {})
    conditions = status.pop("conditions", [])
    containers = [{"ready": ready, **status}] if status else []
    return {"metadata": meta, "status": {"conditions": conditions, "containerStatuses": containers}}


def diagnose(pods: list[Manifest]) -> Diagnosis | None:
    return diagnose_evidence(Evidence(pods))


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


UNSCHEDULABLE = pod(
    conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu"}]
)
PULLING = pod(**waiting("ImagePullBackOff", 'Back-off pulling image "x"'))
UNCONFIGURED = pod(**waiting("CreateContainerConfigError", 'secret "hf" not found'))
CRASHED = pod(**waiting("CrashLoopBackOff"), lastState=ended(1, message="no such model\n"))
RESTARTED = pod(state={"running": {}}, started=False, lastState=ended(1, message="no such model"))
ENDED = pod(state=ended(3))
STARVED = pod(**waiting("CrashLoopBackOff"), lastState=ended(137, "OOMKilled"))
LOADING = pod(state={"running": {}}, started=False)
SILENT = pod(state={"running": {}}, started=True)
CREATING = pod(**waiting("ContainerCreating"))
SERVING = pod(ready=True, state={"running": {}}, started=True)
RECOVERED = pod(ready=True, state={"running": {}}, started=True, lastState=ended(1))


@pytest.mark.parametrize(
    ("found", "reason", "message", "blocking"),
    [
        (UNSCHEDULABLE, "Unschedulable", "No node takes pod chat-0: 0/3 nodes: 3 Insufficient nvidia.com/gpu", True),
        (PULLING, "ImagePullBackOff", 'Pod chat-0 does not get its image: Back-off pulling image "x"', True),
        (UNCONFIGURED, "ContainerConfigError", 'Pod chat-0 cannot be started: secret "hf" not found', True),
        (CRASHED, "CrashLoopBackOff", "Pod chat-0 exited with code 1, after saying: no such model", True),
        (RESTARTED, "CrashLoopBackOff", "Pod chat-0 exited with code 1, after saying: no such model", True),
        (ENDED, "CrashLoopBackOff", "Pod chat-0 exited with code 3", True),
        (STARVED, "OOMKilled", "Pod chat-0 ran out of memory (exit code 137): raise resources.limits.memory", True),
        (SILENT, "ProbeFailing", "Pod chat-0 had started, but does not answer now", False),
        (LOADING, "Starting", "Pod chat-0 loads the model", False),
    ],
)
def test_each_failure_has_its_word_and_its_sentence(found: Manifest, reason: str, message: str, blocking: bool) -> None:
    diagnosis = diagnose([found])
    assert diagnosis is not None
    assert (diagnosis.reason, diagnosis.message, diagnosis.blocking) == (reason, message, blocking)


@pytest.mark.parametrize("found", [SERVING, RECOVERED, CREATING, pod()])
def test_there_may_be_nothing_to_say(found: Manifest) -> None:
    assert diagnose([found]) is None


def test_the_gravest_is_said_first() -> None:
    diagnosis = diagnose([LOADING, CRASHED, UNSCHEDULABLE])
    assert diagnosis is not None
    assert diagnosis.reason == "Unschedulable"


def test_of_equals_the_first_by_name_is_said_so_that_the_message_is_stable() -> None:
    one, two = pod("chat-1", state={"running": {}}), pod("chat-0", state={"running": {}})
    for pods in ([one, two], [two, one]):
        diagnosis = diagnose(pods)
        assert diagnosis is not None
        assert diagnosis.message == "Pod chat-0 loads the model"


def test_pods_on_their_way_out_are_passed_over() -> None:
    assert diagnose([pod(leaving=True, state=ended(1))]) is None


def test_of_a_long_log_the_end_is_quoted() -> None:
    diagnosis = diagnose([pod(state=ended(1, message="x" * 5000 + "the last line"))])
    assert diagnosis is not None
    assert diagnosis.message.endswith("the last line")
    assert len(diagnosis.message) < LONGEST + 100
