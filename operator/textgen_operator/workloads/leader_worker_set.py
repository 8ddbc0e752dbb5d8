"""A LeaderWorkerSet, whose groups are counted here: its own status does not say what a group was made from."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from textgen_operator.diagnosis import Diagnosis
from textgen_operator.diagnosis.finding import is_ready
from textgen_operator.kinds import LEADER_WORKER_SETS, Manifest
from textgen_operator.workloads.base import REVISION_LABEL, Tally, revision_of

_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
_PARTS = ("size", "leaderTemplate", "workerTemplate")
_TEMPLATES = ("leaderTemplate", "workerTemplate")


class LeaderWorkerSet:
    """See Workload."""

    kind = LEADER_WORKER_SETS
    revision_label = REVISION_LABEL

    def made_from(self, manifest: Manifest) -> dict[str, Any]:
        return {part: _group(manifest).get(part) for part in _PARTS}

    def remake(self, manifest: Manifest, parts: dict[str, Any]) -> None:
        _group(manifest).update({part: copy.deepcopy(value) for part, value in parts.items() if value is not None})

    def templates(self, manifest: Manifest) -> list[Manifest]:
        return [_group(manifest)[part] for part in _TEMPLATES]

    def mark(self, manifest: Manifest, annotation: str, value: str) -> None:
        for template in self.templates(manifest):
            template["metadata"]["annotations"] = {**(template["metadata"].get("annotations") or {}), annotation: value}

    def seal(self, manifest: Manifest) -> None:
        revision = revision_of(self.made_from(manifest))
        for template in self.templates(manifest):
            template["metadata"]["labels"] = {**template["metadata"]["labels"], self.revision_label: revision}

    def tally(self, manifest: Manifest, pods: Sequence[Manifest]) -> Tally:
        size = int(_group(manifest).get("size", 1))
        newest = self._revision(_group(manifest)["leaderTemplate"])
        groups = _groups_of(pods)
        revisions = [{self._revision(pod) for pod in group} for group in groups.values()]
        return Tally(
            wanted=int(manifest["spec"].get("replicas", 1)),
            pods_each=size,
            replicas=len(groups),
            ready=sum(len(group) == size and all(map(is_ready, group)) for group in groups.values()),
            updated=sum(found == {newest} for found in revisions),
            current_revision=min((name for found in revisions for name in found if name != newest), default=newest),
            update_revision=newest,
            observed=True,
        )

    def _revision(self, made: Manifest) -> str:
        """Of a pod, or of a template of pods."""
        return str(made["metadata"].get("labels", {}).get(self.revision_label, ""))

    def lacking(self, manifest: Manifest, pods: Sequence[Manifest]) -> list[str]:
        # One has the leaders, and each leader's followers have one of their own.
        name, tally, groups = manifest["metadata"]["name"], self.tally(manifest, pods), _groups_of(pods)
        of_leaders = [name] if tally.replicas < tally.wanted else []
        return of_leaders + [f"{name}-{index}" for index, group in groups.items() if len(group) < tally.pods_each]

    def complaint(self, manifest: Manifest) -> Diagnosis | None:
        return None

    def addresses(self, manifest: Manifest) -> list[str]:
        return []


def _groups_of(pods: Sequence[Manifest]) -> dict[str, list[Manifest]]:
    """By number, without the pods on their way out."""
    groups: dict[str, list[Manifest]] = defaultdict(list)
    for pod in pods:
        if "deletionTimestamp" not in pod["metadata"]:
            groups[pod["metadata"].get("labels", {}).get(_GROUP, "")].append(pod)
    return groups


def _group(manifest: Manifest) -> Manifest:
    template: Manifest = manifest["spec"]["leaderWorkerTemplate"]
    return template
