"""The object that carries a service's pods: a StatefulSet, unless the spec asks for another kind.

render/workload.py decides which. What reads one asks here, so that only a file of this package knows its kind. Another
kind is such a file with a line in `_WORKLOADS`, a file in render/ with a line in render/workload.py, and a place in
`kinds.WORKLOADS`.
"""

from textgen_operator.kinds import Manifest, kind_of
from textgen_operator.workloads.base import PODS_FROM, Tally, Workload
from textgen_operator.workloads.inference_service import InferenceService
from textgen_operator.workloads.leader_worker_set import LeaderWorkerSet
from textgen_operator.workloads.statefulset import StatefulSet

__all__ = ["PODS_FROM", "Tally", "Workload", "pod_spec", "workload_of"]

_WORKLOADS: tuple[Workload, ...] = (StatefulSet(), LeaderWorkerSet(), InferenceService())
_BY_KIND = {workload.kind: workload for workload in _WORKLOADS}


def workload_of(manifest: Manifest) -> Workload:
    """What knows of an object of this kind."""
    return _BY_KIND[kind_of(manifest)]


def pod_spec(manifest: Manifest) -> Manifest:
    """What runs in a pod that serves."""
    spec: Manifest = workload_of(manifest).templates(manifest)[0]["spec"]
    return spec
