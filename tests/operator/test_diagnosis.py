"""Pods -> why they do not serve."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from textgen_operator.diagnosis import Diagnosis, Evidence, containers
from textgen_operator.diagnosis import diagnose as diagnose_evidence
from textgen_operator.diagnosis.lastwords import LONGEST
from textgen_operator.kinds import Manifest
from textgen_server.errors import StartupError
from textgen_server.telemetry import JsonFormatter


def subclasses(error: type[StartupError]) -> list[type[StartupError]]:
    return [each for child in error.__subclasses__() for each in [child, *subclasses(child)]]


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


# --- what the server said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", subclasses(StartupError), ids=lambda error: error.__name__)
def test_each_of_the_servers_reasons_not_to_start_has_a_word_of_its_own(error: type[StartupError]) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "because", None, None)
    record.fields = {"error_type": error.error_type}
    after = '{"message": "the engine could not start", "error_type": "startup"}'
    log = f'half a line"}}\n{{"message": "model x"}}\n{JsonFormatter().format(record)}\n{after}\n'
    diagnosis = diagnose([pod(state=ended(1, message=log))])
    assert diagnosis is not None
    assert diagnosis.reason == containers.REASONS[error.error_type]
    assert diagnosis.message == "Pod chat-0 exited with code 1: because"


def test_a_server_that_gives_no_reason_is_quoted_line_by_line() -> None:
    log = '{"message": "model x"}\n{"message": "lost", "exception": "Traceback\\nValueError: bad"}\n[1] plain'
    diagnosis = diagnose([pod(state=ended(1, message=log))])
    assert diagnosis is not None
    assert diagnosis.reason == "CrashLoopBackOff"
    assert diagnosis.message.endswith("after saying: model x\nlost: ValueError: bad\n[1] plain")


def test_pytorchs_own_words_for_a_full_gpu_are_known() -> None:
    diagnosis = diagnose([pod(state=ended(1, message="torch.OutOfMemoryError: CUDA out of memory. Tried to"))])
    assert diagnosis is not None
    assert diagnosis.reason == "GPUOutOfMemory"


# --- what no container says -------------------------------------------------------------------------------------------


def event(kind: str, name: str, message: str, time: str = "2026-01-01T00:00:00Z") -> Manifest:
    return {"involvedObject": {"kind": kind, "name": name}, "message": message, "lastTimestamp": time}


WAITING_FOR_CLAIM = pod(
    conditions=[{"type": "PodScheduled", "status": "False", "message": "unbound immediate PersistentVolumeClaims"}]
) | {"spec": {"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache-chat-0"}}]}}
LOST = {
    "metadata": {"name": "chat-0", "deletionTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"nodeName": "gpu-7"},
    "status": {},
}
MINUTE = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("evidence", "reason", "words"),
    [
        (
            Evidence([], [event("StatefulSet", "chat", 'pods "chat-0" is forbidden: exceeded quota: gpus')]),
            "QuotaExceeded",
            "exceeded quota: gpus",
        ),
        (
            Evidence([], [event("StatefulSet", "chat", 'admission webhook "x" denied the request')]),
            "PodRefused",
            'webhook "x" denied',
        ),
        (
            Evidence(
                [WAITING_FOR_CLAIM],
                [
                    event("PersistentVolumeClaim", "cache-chat-0", "older", "2025-01-01T00:00:00Z"),
                    event("PersistentVolumeClaim", "cache-chat-0", 'storageclass "nvme" not found'),
                    event("PersistentVolumeClaim", "other", "unrelated", "2027-01-01T00:00:00Z"),
                ],
            ),
            "VolumePending",
            'unbound immediate PersistentVolumeClaims; storageclass "nvme" not found',
        ),
        (
            Evidence([CREATING], [event("Pod", "chat-0", "hostPath type check failed: /models is not a directory")]),
            "VolumePending",
            "/models is not a directory",
        ),
        (Evidence([LOST], [], MINUTE + timedelta(seconds=1)), "PodTerminating", "node gpu-7 does not confirm it"),
        (Evidence([pod(state=ended(143))]), "ProbeFailing", "raise startup.timeoutSeconds"),
        (Evidence([pod(restartCount=1, state={"running": {}}, lastState=ended(0))]), "ProbeFailing", "exit code 0"),
        (Evidence([pod(state=ended(137))]), "CrashLoopBackOff", "SIGKILL"),
    ],
)
def test_what_keeps_a_pod_from_coming_to_be_is_quoted(evidence: Evidence, reason: str, words: str) -> None:
    diagnosis = diagnose_evidence(evidence)
    assert diagnosis is not None
    assert (diagnosis.reason, diagnosis.blocking) == (reason, True)
    assert words in diagnosis.message


def test_a_pod_that_ends_in_its_time_is_no_finding() -> None:
    assert diagnose_evidence(Evidence([LOST], [], MINUTE)) is None
