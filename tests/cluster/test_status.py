"""What the status says, as pods come and go. The tests stand in for the kubelet."""

from typing import Any

import pytest
from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import PODS, SERVICES_OF_OURS, STATEFUL_SETS, Manifest

TERMINATED = {
    "exitCode": 1,
    "reason": "Error",
    "startedAt": "2026-01-01T00:00:00Z",
    "finishedAt": "2026-01-01T00:01:00Z",
}


def expect(namespace: Namespace, kind: str, status: str, reason: str) -> Manifest:
    """The condition of `chat`, once it has this status and reason."""

    def found() -> Manifest:
        condition = namespace.condition("chat", kind)
        assert (condition["status"], condition["reason"]) == (status, reason), condition
        return condition

    return eventually(found)


def running(namespace: Namespace, replicas: int = 1) -> None:
    """Create `chat` and report its pods as ready."""
    namespace.serve("chat", replicas=replicas)
    eventually(lambda: namespace.stands("chat"))
    namespace.make_ready("chat")
    expect(namespace, "Ready", "True", "Ready")


def test_ready_when_every_pod_answers_and_not_before(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat", replicas=2)
    eventually(lambda: namespace.stands("chat"))
    expect(namespace, "Accepted", "True", "Accepted")
    expect(namespace, "Available", "False", "NoReadyPods")
    first, second = namespace.list(PODS, "chat")

    namespace.report(first, ready=True)
    expect(namespace, "Available", "True", "ReadyPods")
    assert namespace.condition("chat", "Ready")["status"] == "False"

    namespace.report(second, ready=True)
    expect(namespace, "Ready", "True", "Ready")
    expect(namespace, "Progressing", "False", "RolloutComplete")
    status = namespace.get(SERVICES_OF_OURS, "chat")["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    assert status["url"] == f"http://chat.{namespace.name}.svc"

    namespace.report(first, ready=False)
    assert expect(namespace, "Ready", "False", "Starting")["message"].startswith("Pod chat-0")
    expect(namespace, "Available", "True", "ReadyPods")


def test_a_new_spec_is_ready_only_with_new_pods(operator: Operator, namespace: Namespace) -> None:
    running(namespace)
    old = namespace.list(PODS, "chat")[0]["metadata"]["uid"]
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"dtype": "bfloat16"}})
    expect(namespace, "Progressing", "True", "RollingOut")
    assert namespace.condition("chat", "Ready")["status"] == "False"

    def replaced() -> None:
        pods = namespace.list(PODS, "chat")
        assert [pod["spec"]["containers"][0]["args"].count("bfloat16") for pod in pods] == [1]
        assert pods[0]["metadata"]["uid"] != old

    eventually(replaced)
    namespace.make_ready("chat")
    expect(namespace, "Ready", "True", "Ready")


@pytest.mark.parametrize(
    ("container", "reason", "words"),
    [
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {"terminated": TERMINATED | {"message": "no such model: org/typo"}},
            },
            "CrashLoopBackOff",
            "Pod chat-0 exited with code 1, after saying: no such model: org/typo",
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": TERMINATED | {"exitCode": 137, "reason": "OOMKilled"}},
            },
            "OOMKilled",
            "resources.limits.memory",
        ),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}},
            "ImagePullBackOff",
            "manifest unknown",
        ),
        (
            {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}}},
            "ContainerConfigError",
            'secret "hf" not found',
        ),
    ],
    ids=["crash", "out of memory", "image", "secret"],
)
def test_the_reason_why_a_pod_does_not_start_is_told(
    operator: Operator, namespace: Namespace, container: dict[str, Any], reason: str, words: str
) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    (pod,) = namespace.list(PODS, "chat")
    namespace.report(pod, ready=False, **container)
    assert words in expect(namespace, "Ready", "False", reason)["message"]
    # And it is forgotten once it no longer holds.
    namespace.report(pod, ready=True)
    expect(namespace, "Ready", "True", "Ready")


def test_the_scale_subresource_scales(operator: Operator, namespace: Namespace) -> None:
    running(namespace)
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"replicas": 3}}, "scale")
    eventually(lambda: expect_pods(namespace, 3))
    namespace.make_ready("chat")
    expect(namespace, "Ready", "True", "Ready")

    scale = namespace.kube.get(SERVICES_OF_OURS, namespace.name, "chat/scale")
    assert scale is not None
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 3)
    selected = namespace.kube.list(PODS, namespace.name, scale["status"]["selector"])
    assert len(selected) == 3


def test_no_replicas_is_said_to_be_intended(operator: Operator, namespace: Namespace) -> None:
    running(namespace)
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"replicas": 0}}, "scale")
    eventually(lambda: expect_pods(namespace, 0))
    expect(namespace, "Ready", "False", "ScaledToZero")
    expect(namespace, "Available", "False", "ScaledToZero")


def expect_pods(namespace: Namespace, count: int) -> None:
    assert namespace.get(STATEFUL_SETS, "chat")["spec"]["replicas"] == count
    assert len(namespace.list(PODS, "chat")) == count
