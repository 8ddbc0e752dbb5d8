"""What the status says, as pods come and go. The tests stand in for the kubelet."""

from typing import Any

from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import EVENTS, PODS, SECRETS, SERVICES_OF_OURS, STATEFUL_SETS, Kind, Manifest

QUOTAS = Kind("v1", "ResourceQuota", "resourcequotas")

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


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    """The container ended and waits to be started again."""
    end = TERMINATED | {"exitCode": code, "reason": reason, "message": message}
    return {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end}}


def waiting(reason: str, message: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


GATED = '{"message": "org/model is gated: accept its terms", "error_type": "model_gated"}'
FULL_GPU = (
    '{"message": "the model does not fit", "error_type": "out_of_memory"}\n{"message": "x", "error_type": "startup"}'
)
ILLS: dict[str, tuple[dict[str, Any], str]] = {
    "ImagePullBackOff": (waiting("ImagePullBackOff", "manifest unknown"), "manifest unknown"),
    "ContainerConfigError": (waiting("CreateContainerConfigError", 'no key "token"'), 'no key "token"'),
    "CrashLoopBackOff": (ended(1, message="no such model: org/typo"), "with code 1, after saying: no such model"),
    "OOMKilled": (ended(137, "OOMKilled"), "resources.limits.memory"),
    "GatedModel": (ended(1, message=GATED), "accept its terms"),
    "GPUOutOfMemory": (ended(1, message=FULL_GPU), "exited with code 1: the model does not fit"),
}
"""Reason of Ready -> what the kubelet says of the container, and what the message has of it."""


def test_each_reason_why_a_pod_does_not_serve_is_told_and_forgotten_again(
    operator: Operator, namespace: Namespace
) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    (pod,) = namespace.list(PODS, "chat")
    for reason, (container, words) in ILLS.items():
        namespace.report(pod, ready=False, **container)
        assert words in expect(namespace, "Ready", "False", reason)["message"]
    expect(namespace, "ModelReady", "Unknown", "NoPods")

    scheduling = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu"}
    status = {"phase": "Pending", "conditions": [scheduling], "containerStatuses": []}
    namespace.edit(PODS, "chat-0", {"status": status}, "status")
    assert "3 Insufficient nvidia.com/gpu" in expect(namespace, "Ready", "False", "Unschedulable")["message"]
    expect(namespace, "Scheduled", "False", "Unschedulable")
    expect(namespace, "Progressing", "False", "RolloutBlocked")

    namespace.report(pod, ready=True)
    expect(namespace, "Ready", "True", "Ready")
    for kind in ("ModelReady", "Scheduled", "Available"):
        assert namespace.condition("chat", kind)["status"] == "True"
    failure = namespace.get(SERVICES_OF_OURS, "chat")["status"]["lastFailure"]
    assert (failure["pod"], failure["container"]) == ("chat-0", "server")
    told = {event["reason"]: event for event in namespace.list(EVENTS) if event["involvedObject"]["name"] == "chat"}
    assert told.keys() >= {"Created", "ImagePullFailed", "CrashLoop", "Unschedulable", "BecameReady"}
    assert told["CrashLoop"]["source"]["component"] == "textgen-operator"


def test_a_missing_secret_is_told_before_anything_is_changed(operator: Operator, namespace: Namespace) -> None:
    running(namespace)
    before = namespace.get(STATEFUL_SETS, "chat")["spec"]
    spec = {"huggingFace": {"tokenSecretRef": {"name": "hf"}}, "model": "org/model"}
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": spec})
    assert "key token of Secret hf" in expect(namespace, "Accepted", "False", "SecretNotFound")["message"]
    expect(namespace, "Ready", "False", "SecretNotFound")
    expect(namespace, "Available", "True", "ReadyPods")
    assert namespace.get(STATEFUL_SETS, "chat")["spec"] == before

    namespace.kube.post(SECRETS.path(namespace.name), {"metadata": {"name": "hf"}, "stringData": {"token": "x"}})
    expect(namespace, "Accepted", "True", "Accepted")

    def rolled() -> None:
        assert namespace.get(STATEFUL_SETS, "chat")["spec"] != before

    eventually(rolled)


def test_a_quota_that_allows_no_pods_is_quoted(operator: Operator, namespace: Namespace) -> None:
    none = {"hard": {"pods": "0"}}
    namespace.kube.post(QUOTAS.path(namespace.name), {"metadata": {"name": "none"}, "spec": none})
    namespace.edit(QUOTAS, "none", {"status": none | {"used": {"pods": "0"}}}, "status")
    namespace.serve("chat")
    assert "exceeded quota: none" in expect(namespace, "Ready", "False", "QuotaExceeded")["message"]
    expect(namespace, "Scheduled", "False", "QuotaExceeded")


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
