"""Containers that do not get their image, cannot be started, crash, or do not answer."""

from collections.abc import Iterator

from textgen_operator.diagnosis import lastwords
from textgen_operator.diagnosis.finding import Diagnosis, Evidence, name_of, unready
from textgen_operator.kinds import Manifest

_IMAGE_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG_FAILURES = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_KILLED, _TERMINATED = 137, 143
"""Exit codes of a process that SIGKILL, or SIGTERM, ended."""

REASONS = {
    "out_of_memory": "GPUOutOfMemory",
    "model_missing": "ModelNotFound",
    "model_gated": "GatedModel",
    "model_source": "DownloadFailed",
    "download_damaged": "ChecksumMismatch",
    "no_space": "NoSpace",
    "checkpoint": "InvalidCheckpoint",
}
"""The server's word for why it could not start -> ours. The other words mean no more than that it crashed."""


def image_missing(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """The kubelet does not get the image."""
    for message in _waiting(pod, _IMAGE_FAILURES):
        yield Diagnosis("ImagePullBackOff", f"Pod {name_of(pod)} does not get its image: {message}")


def misconfigured(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """The kubelet cannot make the container: a Secret is missing, or the runtime refuses."""
    for message in _waiting(pod, _CONFIG_FAILURES):
        yield Diagnosis("ContainerConfigError", f"Pod {name_of(pod)} cannot be started: {message}")


def crashed(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """A container ended, or is starting anew after it did."""
    for status in unready(pod):
        ended = last_end(status)
        if ended:
            yield explain(pod, ended)


def last_end(status: Manifest) -> Manifest | None:
    """How a container last ended; None when it has not, or did so as it should."""
    now = status.get("state", {}).get("terminated")
    ended: Manifest | None = now or status.get("lastState", {}).get("terminated")
    # A server that SIGTERM ends exits with 0, which is a failure too when it has to start anew.
    restarted = status.get("restartCount", 0) > 0
    return ended if ended and (ended["exitCode"] != 0 or (restarted and not now)) else None


def explain(pod: Manifest, ended: Manifest) -> Diagnosis:
    """Why a container ended, from its exit code and its last words."""
    name, code = name_of(pod), ended["exitCode"]
    if ended.get("reason") == "OOMKilled":
        return Diagnosis("OOMKilled", f"Pod {name} ran out of memory (exit code {code}): raise resources.limits.memory")
    words = lastwords.read(ended.get("message", ""))
    if words.error_type in REASONS:
        return Diagnosis(REASONS[words.error_type], f"Pod {name} exited with code {code}: {words.text}")
    if code in (0, _TERMINATED):
        return Diagnosis(
            "ProbeFailing",
            f"Pod {name} was told to end, as happens to one that does not answer its probes (exit code {code}); if it "
            "was still loading, raise startup.timeoutSeconds",
        )
    killed = " (SIGKILL: out of memory, or it did not end in time)" if code == _KILLED else ""
    said = f", after saying: {words.text}" if words.text else ""
    return Diagnosis("CrashLoopBackOff", f"Pod {name} exited with code {code}{killed}{said}")


def unhealthy(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """It had started, but its readiness probe fails."""
    for status in unready(pod):
        if "running" in status.get("state", {}) and status.get("started"):
            yield Diagnosis("ProbeFailing", f"Pod {name_of(pod)} had started, but does not answer now", blocking=False)


def starting(pod: Manifest, evidence: Evidence) -> Iterator[Diagnosis]:
    """It runs, and its startup probe has not succeeded yet."""
    for status in unready(pod):
        if "running" in status.get("state", {}):
            yield Diagnosis("Starting", f"Pod {name_of(pod)} loads the model", blocking=False)


def _waiting(pod: Manifest, reasons: tuple[str, ...]) -> Iterator[str]:
    """What Kubernetes says of each container that waits for one of the reasons."""
    for status in unready(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") in reasons:
            yield waiting.get("message") or waiting["reason"]
