"""A StatefulSet, which counts its pods itself."""

import copy
from collections.abc import Sequence
from typing import Any

from textgen_operator.diagnosis import Diagnosis
from textgen_operator.kinds import STATEFUL_SETS, Manifest
from textgen_operator.workloads.base import Tally


class StatefulSet:
    """See Workload."""

    kind = STATEFUL_SETS
    revision_label = "controller-revision-hash"

    _PARTS = ("template", "volumeClaimTemplates")

    def made_from(self, manifest: Manifest) -> dict[str, Any]:
        return {part: manifest["spec"].get(part) for part in self._PARTS}

    def remake(self, manifest: Manifest, parts: dict[str, Any]) -> None:
        manifest["spec"] |= {part: copy.deepcopy(value) for part, value in parts.items() if value is not None}

    def templates(self, manifest: Manifest) -> list[Manifest]:
        return [manifest["spec"]["template"]]

    def mark(self, manifest: Manifest, annotation: str, value: str) -> None:
        template = manifest["spec"]["template"]
        annotations = {**(template["metadata"].get("annotations") or {}), annotation: value}
        manifest["spec"]["template"] = template | {"metadata": template["metadata"] | {"annotations": annotations}}

    def seal(self, manifest: Manifest) -> None:
        """Kubernetes names its revisions."""

    def tally(self, manifest: Manifest, pods: Sequence[Manifest]) -> Tally:
        status = manifest.get("status", {})
        return Tally(
            wanted=int(manifest["spec"]["replicas"]),
            replicas=status.get("replicas", 0),
            ready=status.get("readyReplicas", 0),
            updated=status.get("updatedReplicas", 0),
            current_revision=status.get("currentRevision", ""),
            update_revision=status.get("updateRevision", ""),
            observed=status.get("observedGeneration") == manifest["metadata"]["generation"],
        )

    def lacking(self, manifest: Manifest, pods: Sequence[Manifest]) -> list[str]:
        tally = self.tally(manifest, pods)
        return [manifest["metadata"]["name"]] if tally.replicas < tally.wanted else []

    def complaint(self, manifest: Manifest) -> Diagnosis | None:
        return None

    def addresses(self, manifest: Manifest) -> list[str]:
        return []
