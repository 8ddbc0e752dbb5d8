"""What the operator asks of an object that carries pods, whatever its kind."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from textgen_operator.diagnosis import Diagnosis
from textgen_operator.kinds import Kind, Manifest
from textgen_operator.resource import GROUP

PODS_FROM = f"{GROUP}/pods-from"
"""The annotation of a workload in which rollout/pinning.py writes down what its pods were made from."""

REVISION_LABEL = f"{GROUP}/revision"
"""The label of pods whose workload's controller names no revision that could be found again."""


def revision_of(parts: dict[str, Any]) -> str:
    """The name of the revision of pods that are made from these parts (`made_from`)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Tally:
    """How many replicas there are: pods, or groups of pods that hold the model together.

    Attributes:
        wanted: as many as the workload has been told to have.
        pods_each: of each replica.
        replicas: that exist.
        ready: that answer.
        updated: of the newest revision.
        current_revision: name of the revision of pods that a rollout has not reached; empty when it is not known.
        update_revision: name of the newest revision; empty before there is one.
        observed: whether the numbers are about what the workload was told last.
    """

    wanted: int = 0
    pods_each: int = 1
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    current_revision: str = ""
    update_revision: str = ""
    observed: bool = False


class Workload(Protocol):
    """One kind of object that carries pods."""

    @property
    def kind(self) -> Kind:
        """Its kind."""

    @property
    def revision_label(self) -> str:
        """The label of a pod that names its revision."""

    def made_from(self, manifest: Manifest) -> dict[str, Any]:
        """What of the workload's spec decides on what its pods are, and nothing else: no count, no pace."""

    def remake(self, manifest: Manifest, parts: dict[str, Any]) -> None:
        """Put what `made_from` gave, perhaps of another manifest, into this one."""

    def templates(self, manifest: Manifest) -> list[Manifest]:
        """Each pod template, to be read: `metadata` and `spec`."""

    def mark(self, manifest: Manifest, annotation: str, value: str) -> None:
        """Set an annotation of its pods."""

    def seal(self, manifest: Manifest) -> None:
        """Do what is left to be done when everything that decides on the pods is in the manifest."""

    def tally(self, manifest: Manifest, pods: Sequence[Manifest]) -> Tally:
        """Its pods, counted.

        Args:
            manifest: as it is.
            pods: of the service.
        """

    def lacking(self, manifest: Manifest, pods: Sequence[Manifest]) -> list[str]:
        """Names of the StatefulSets that have fewer pods than they should. Arguments as of `tally`."""

    def complaint(self, manifest: Manifest) -> Diagnosis | None:
        """Why its own controller does not call it ready, where pods are not all that counts; None when it does."""

    def addresses(self, manifest: Manifest) -> list[str]:
        """Where it is reached, beside the Services, routes and ingresses that the operator makes."""
