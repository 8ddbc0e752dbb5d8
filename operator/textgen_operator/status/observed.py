"""What was observed of a service: the input of everything in this package."""

from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property

from textgen_operator.diagnosis import Diagnosis, Evidence
from textgen_operator.events import Change
from textgen_operator.foreign_scalers import ForeignScaler
from textgen_operator.kinds import Kind, Manifest
from textgen_operator.resource import TextGenerationService
from textgen_operator.rollout.steering import Course
from textgen_operator.status.progress import Progress
from textgen_operator.workloads import Tally, workload_of


@dataclass(frozen=True)
class Obstacle:
    """Why the spec could not be put into effect.

    Attributes:
        reason: InvalidSpec, SecretNotFound, ClaimNotFound, NameConflict, UnsupportedCluster, Downloading,
            DownloadFailed or ReconcileError.
        message: what is in the way, and what to do.
        accepted: whether the spec as such is fine.
    """

    reason: str
    message: str
    accepted: bool = False


@dataclass(frozen=True)
class Intent:
    """What the spec, when it is valid, makes of the cluster.

    Attributes:
        service: the resource.
        url: where clients inside the cluster reach it.
        overrides: what its podTemplate changes.
        absent: optional kinds that it asks for, and that the cluster does not serve.
        served: optional kinds that the cluster serves.
        foreign_scaler: somebody else's, if there is one.
    """

    service: TextGenerationService
    url: str
    overrides: tuple[str, ...] = ()
    absent: tuple[Kind, ...] = ()
    served: Set[Kind] = frozenset()
    foreign_scaler: ForeignScaler | None = None


@dataclass(frozen=True)
class Observed:
    """The children of a service, and what stood in their way.

    Attributes:
        workload: ours that carries the pods, as it is after this pass, or None.
        evidence: its pods, and what events say about them.
        shards: ranks in each replica; 0 when the spec is not valid.
        obstacle: None when everything asked for was applied.
        progress: how far the server is that loads, as it last said.
        located: the model that a server found, if one has said so since the last look.
        changes: what this look wrote.
        startup: `status.startup`, if a pod has started since the last look.
        intent: what is wanted; None when the spec is not valid.
        scaler: ours, if there is one.
        route: the HTTPRoute, if there is one.
        course: where its rollout stands; None when the spec is not valid, or a name is taken.
    """

    workload: Manifest | None = None
    evidence: Evidence = field(default_factory=Evidence)
    shards: int = 0
    obstacle: Obstacle | None = None
    progress: Progress | None = None
    located: Progress | None = None
    startup: Manifest | None = None
    changes: list[Change] = field(default_factory=list)
    intent: Intent | None = None
    scaler: Manifest | None = None
    route: Manifest | None = None
    course: Course | None = None

    @property
    def pods(self) -> list[Manifest]:
        """The pods that its selector finds."""
        return self.evidence.pods

    @property
    def suspended(self) -> bool:
        """Whether the spec wants no pods for now."""
        return self.intent is not None and self.intent.service.spec.suspend

    @cached_property
    def tally(self) -> Tally:
        """The pods, counted as the workload's kind does."""
        return workload_of(self.workload).tally(self.workload, self.pods) if self.workload else Tally()

    @property
    def counts(self) -> dict[str, int]:
        """The status's counts of pods."""
        tally = self.tally
        return {"replicas": tally.replicas, "readyReplicas": tally.ready, "updatedReplicas": tally.updated}

    @property
    def revisions(self) -> dict[str, str]:
        """The status's names of the revisions of pods, as far as they are known."""
        names = {"currentRevision": self.tally.current_revision, "updateRevision": self.tally.update_revision}
        return {key: name for key, name in names.items() if name}

    @property
    def wanted(self) -> int:
        """Replicas that there should be; while they are replaced, the workload may have more or fewer."""
        return self.course.wanted if self.course is not None and self.workload is not None else self.tally.wanted

    @property
    def noun(self) -> str:
        """What is counted."""
        each = self.tally.pods_each
        return "pods" if each == 1 else f"groups of {each} pods"

    @property
    def current_pods(self) -> list[Manifest]:
        """The pods of the newest revision, without those on their way out."""
        if self.workload is None:
            return []
        label = workload_of(self.workload).revision_label
        return [
            pod
            for pod in self.pods
            if pod["metadata"].get("labels", {}).get(label) == self.tally.update_revision
            and "deletionTimestamp" not in pod["metadata"]
        ]

    @property
    def rolled_out(self) -> bool:
        """Whether the pods that exist are those of the current spec, as many as asked for."""
        tally = self.tally
        return tally.observed and tally.replicas == tally.updated == self.wanted

    @property
    def all_ready(self) -> bool:
        """Whether every pod that there should be is of the current spec, and answers."""
        return self.rolled_out and self.tally.ready == self.wanted > 0 and self.complaint is None

    @property
    def complaint(self) -> Diagnosis | None:
        """Why the workload's own controller does not call it ready, although pods may be."""
        return workload_of(self.workload).complaint(self.workload) if self.workload else None
