"""KServe's InferenceService: KServe makes a Deployment of it, whose pods are counted here.

KServe copies the labels and annotations of an InferenceService to its pods, those of the predictor before its own.
"""

import copy
from collections.abc import Sequence
from typing import Any

from textgen_operator.diagnosis import Diagnosis
from textgen_operator.diagnosis.finding import condition, is_ready
from textgen_operator.kinds import INFERENCE_SERVICES, Manifest
from textgen_operator.workloads.base import PODS_FROM, REVISION_LABEL, Tally, revision_of

NOT_READY = "InferenceServiceNotReady"

_PACE = ("minReplicas", "maxReplicas", "deploymentStrategy")
_OF_PODS = ("labels", "annotations")
"""What stands among the fields of the pods, and is none of their spec."""

_ENDED = ("Failed", "Succeeded")


class InferenceService:
    """See Workload."""

    kind = INFERENCE_SERVICES
    revision_label = REVISION_LABEL

    def made_from(self, manifest: Manifest) -> dict[str, Any]:
        return {"predictor": {name: part for name, part in _predictor(manifest).items() if name not in _PACE}}

    def remake(self, manifest: Manifest, parts: dict[str, Any]) -> None:
        pace = {name: part for name, part in _predictor(manifest).items() if name in _PACE}
        manifest["spec"]["predictor"] = copy.deepcopy(parts["predictor"] or {}) | pace

    def templates(self, manifest: Manifest) -> list[Manifest]:
        predictor = _predictor(manifest)
        metadata = {name: predictor[name] for name in _OF_PODS if name in predictor}
        spec = {name: part for name, part in predictor.items() if name not in (*_PACE, *_OF_PODS)}
        return [{"metadata": metadata, "spec": spec}]

    def mark(self, manifest: Manifest, annotation: str, value: str) -> None:
        _predictor(manifest).setdefault("annotations", {})[annotation] = value

    def seal(self, manifest: Manifest) -> None:
        # The pods must not be replaced only because the operator notes something about them anew.
        self.mark(manifest, PODS_FROM, INFERENCE_SERVICES.name)
        revision = revision_of(self.made_from(manifest))
        _predictor(manifest).setdefault("labels", {})[self.revision_label] = revision

    def tally(self, manifest: Manifest, pods: Sequence[Manifest]) -> Tally:
        newest = _predictor(manifest).get("labels", {}).get(self.revision_label, "")
        there = [pod for pod in pods if _counts(pod)]
        revisions = [pod["metadata"].get("labels", {}).get(self.revision_label, "") for pod in there]
        return Tally(
            wanted=int(_predictor(manifest).get("minReplicas", 1)),
            replicas=len(there),
            ready=sum(is_ready(pod) for pod in there),
            updated=revisions.count(newest),
            current_revision=next((revision for revision in revisions if revision != newest), newest),
            update_revision=newest,
            observed=True,
        )

    def lacking(self, manifest: Manifest, pods: Sequence[Manifest]) -> list[str]:
        return []

    def complaint(self, manifest: Manifest) -> Diagnosis | None:
        said = condition(manifest, "Ready")
        if said.get("status") == "True":
            return None
        why = said.get("message") or said.get("reason") or "it has not said yet whether it is ready"
        return Diagnosis(NOT_READY, f"KServe on InferenceService {manifest['metadata']['name']}: {why}", blocking=False)

    def addresses(self, manifest: Manifest) -> list[str]:
        url = manifest.get("status", {}).get("url")
        return [url] if url else []


def _predictor(manifest: Manifest) -> Manifest:
    predictor: Manifest = manifest["spec"]["predictor"]
    return predictor


def _counts(pod: Manifest) -> bool:
    """Whether a ReplicaSet takes the pod for one of its own, and not for one to be replaced."""
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") not in _ENDED
