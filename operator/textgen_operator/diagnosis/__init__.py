"""Pods -> the one reason why they do not serve, in words that lead to the cure. Pure; called by status.py."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from textgen_operator.kinds import Manifest

LONGEST_LOG = 1000
"""Characters of a crashed container's last log lines that are quoted."""

_IMAGE_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG_FAILURES = ("CreateContainerConfigError", "CreateContainerError")


@dataclass(frozen=True)
class Diagnosis:
    """Why a pod does not serve.

    Attributes:
        reason: one stable word.
        message: names the pod and quotes what Kubernetes says.
        blocking: whether it takes more than patience to get over it.
    """

    reason: str
    message: str
    blocking: bool = True


def diagnose(pods: list[Manifest]) -> Diagnosis | None:
    """The gravest finding among the pods that are not on their way out, or None when there is none."""
    staying = sorted((pod for pod in pods if "deletionTimestamp" not in pod["metadata"]), key=_name)
    for look in _LOOKS:
        for pod in staying:
            for diagnosis in look(pod):
                return diagnosis
    return None


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _not_ready_containers(pod: Manifest) -> list[Manifest]:
    return [status for status in pod.get("status", {}).get("containerStatuses", []) if not status.get("ready")]


def _waiting(pod: Manifest, reasons: tuple[str, ...]) -> Iterator[str]:
    """What Kubernetes says of each container that waits for one of the reasons."""
    for status in _not_ready_containers(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") in reasons:
            yield waiting.get("message") or waiting["reason"]


def _unschedulable(pod: Manifest) -> Iterator[Diagnosis]:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Diagnosis("Unschedulable", f"No node takes pod {_name(pod)}: {condition.get('message', '')}")


def _image_missing(pod: Manifest) -> Iterator[Diagnosis]:
    for message in _waiting(pod, _IMAGE_FAILURES):
        yield Diagnosis("ImagePullFailed", f"Pod {_name(pod)} does not get its image: {message}")


def _misconfigured(pod: Manifest) -> Iterator[Diagnosis]:
    for message in _waiting(pod, _CONFIG_FAILURES):
        yield Diagnosis("ContainerConfigError", f"Pod {_name(pod)} cannot be started: {message}")


def _crashed(pod: Manifest) -> Iterator[Diagnosis]:
    for status in _not_ready_containers(pod):
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        if not ended or ended["exitCode"] == 0:
            continue
        if ended.get("reason") == "OOMKilled":
            yield Diagnosis("OOMKilled", f"Pod {_name(pod)} ran out of memory: raise resources.limits.memory")
        else:
            log = ended.get("message", "").strip()[-LONGEST_LOG:]
            said = f", after saying: {log}" if log else ""
            yield Diagnosis("CrashLoop", f"Pod {_name(pod)} exited with code {ended['exitCode']}{said}")


def _unhealthy(pod: Manifest) -> Iterator[Diagnosis]:
    for status in _not_ready_containers(pod):
        if "running" in status.get("state", {}) and status.get("started"):
            yield Diagnosis("ProbeFailing", f"Pod {_name(pod)} had started, but does not answer now", blocking=False)


def _starting(pod: Manifest) -> Iterator[Diagnosis]:
    for status in _not_ready_containers(pod):
        if "running" in status.get("state", {}):
            yield Diagnosis("Starting", f"Pod {_name(pod)} loads the model", blocking=False)


_LOOKS: tuple[Callable[[Manifest], Iterator[Diagnosis]], ...] = (
    _unschedulable,
    _image_missing,
    _misconfigured,
    _crashed,
    _unhealthy,
    _starting,
)
"""From the gravest to the lightest."""
