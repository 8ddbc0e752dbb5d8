"""The last failure of a pod: it stays in the status when the pod has recovered, so that last night can be explained."""

from textgen_operator.diagnosis import containers as ends
from textgen_operator.diagnosis.finding import containers, name_of
from textgen_operator.kinds import Manifest


def last_failure(pods: list[Manifest], before: Manifest | None) -> Manifest | None:
    """`status.lastFailure`: the newest of what the pods tell, and of what was known before.

    Args:
        pods: as they are now; how a container ended is forgotten with its pod.
        before: the one in the status that was written last.
    """
    known = [before] if before else []
    return max(known + _failures(pods), key=lambda failure: (failure["time"], failure["count"]), default=None)


def _failures(pods: list[Manifest]) -> list[Manifest]:
    return [
        _failure(pod, status, ended)
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for status in containers(pod)
        if (ended := ends.last_end(status)) and ended.get("finishedAt")
    ]


def _failure(pod: Manifest, status: Manifest, ended: Manifest) -> Manifest:
    explained = ends.explain(pod, ended)
    return {
        "pod": name_of(pod),
        "container": status.get("name", ""),
        "reason": explained.reason,
        "exitCode": ended["exitCode"],
        "message": explained.message,
        "time": ended["finishedAt"],
        # The kubelet counts what it started again; a container that ended and waits is not among them yet.
        "count": status.get("restartCount", 0) + ("running" not in status.get("state", {})),
    }
