"""Which pods may be replaced now: the StatefulSet's replicas and update strategy for this look. Pure.

Kubernetes' own controller replaces pods as long as it does what is wanted: from the highest ordinal down, one at a
time, each only when those above it are ready. It takes no notice of those below, so where a pod there does not serve
while one above it does, the operator deletes pods itself (OnDelete), the ones that do not serve first. So it does when
pods are to be idle before they go, and where pods lack the volumes of claim templates that are new: Kubernetes' own
controller stops at the first of those, from the lowest ordinal up, because it cannot give them any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textgen_operator.diagnosis.finding import condition
from textgen_operator.diagnosis.scheduling import claims
from textgen_operator.kinds import Manifest
from textgen_operator.resource import Rollout
from textgen_operator.workloads.statefulset import StatefulSet


@dataclass(frozen=True)
class Pod:
    """What matters of one pod.

    Attributes:
        ordinal: its number.
        outdated: whether it is of another revision than the one that is wanted.
        ready: whether it serves, and stays.
        leaving: whether it is on its way out.
        manifest: all of it.
        unfit: whether it lacks a volume of the claim templates.
    """

    ordinal: int
    outdated: bool
    ready: bool
    leaving: bool
    manifest: Manifest
    unfit: bool = False


@dataclass(frozen=True)
class Pace:
    """What the StatefulSet is to do now.

    Attributes:
        replicas: pods, for the time being.
        partition: lowest ordinal that is replaced; None to replace no pod that is not deleted.
        remove: pods that the operator deletes.
    """

    replicas: int
    partition: int | None = 0
    remove: tuple[Manifest, ...] = ()

    @property
    def update_strategy(self) -> Manifest:
        if self.partition is None:
            return {"type": "OnDelete"}
        return {"type": "RollingUpdate", "rollingUpdate": {"partition": self.partition}}


def pods_of(statefulset: Manifest, pods: Sequence[Manifest], new_template: bool) -> list[Pod]:
    """The pods of a StatefulSet, by ordinal.

    Args:
        statefulset: as it is.
        pods: all of the service.
        new_template: whether another template is about to be applied: then every pod is outdated.
    """
    prefix, revision = f"{statefulset['metadata']['name']}-", statefulset.get("status", {}).get("updateRevision")
    found = []
    for pod in pods:
        ordinal = pod["metadata"]["name"].removeprefix(prefix)
        if ordinal.isdecimal():
            leaving = "deletionTimestamp" in pod["metadata"]
            ready = condition(pod, "Ready").get("status") == "True" and not leaving
            outdated = new_template or pod["metadata"].get("labels", {}).get(StatefulSet.revision_label) != revision
            found.append(Pod(int(ordinal), outdated, ready, leaving, pod, not _has_claims(pod, statefulset)))
    return sorted(found, key=lambda pod: pod.ordinal)


def _has_claims(pod: Manifest, statefulset: Manifest) -> bool:
    """Whether the pod has every volume that the StatefulSet's claim templates give it."""
    templates = [template["metadata"]["name"] for template in statefulset["spec"].get("volumeClaimTemplates") or []]
    return {f"{template}-{pod['metadata']['name']}" for template in templates} <= set(claims(pod))


def pace(
    rollout: Rollout,
    wanted: int,
    running: int,
    pods: Sequence[Pod] = (),
    idle: Callable[[Manifest], bool] = lambda pod: False,
) -> Pace:
    """The next step of a rollout; without pods, what holds when there is none.

    Args:
        rollout: how the user wants it.
        wanted: pods that there are to be.
        running: pods that the StatefulSet has been told to have until now.
        pods: those that there are.
        idle: whether a pod answers no request now, or has been waited for long enough.
    """
    if rollout.paused:
        return Pace(wanted, partition=max(wanted, running))
    if rollout.strategy == "Recreate":
        return Pace(0 if any(pod.outdated for pod in pods) else wanted)
    if rollout.strategy == "OnDelete":
        return Pace(wanted, partition=None)
    if rollout.strategy == "Surge" and not any(pod.unfit for pod in pods):
        return _surge(wanted, running, pods)
    return _rolling(rollout, wanted, [pod for pod in pods if pod.ordinal < wanted], idle)


def _rolling(rollout: Rollout, wanted: int, pods: list[Pod], idle: Callable[[Manifest], bool]) -> Pace:
    outdated = [pod for pod in pods if pod.outdated and pod.ordinal >= rollout.partition]
    useless = tuple(pod.manifest for pod in outdated if not pod.ready and not pod.leaving)
    serving = [pod for pod in outdated if pod.ready]
    all_serve = sum(pod.ready for pod in pods) == wanted
    if rollout.wait_for_idle_seconds or any(pod.unfit for pod in outdated):
        may_go = all_serve and (not rollout.wait_for_idle_seconds or any(map(idle, next_to_go(outdated))))
        next_ones = tuple(next_to_go(outdated)) if may_go else ()
        return Pace(wanted, None, useless + next_ones)
    if rollout.partition == 0 and serving and _is_one_missing_below(serving[-1].ordinal, pods):
        return Pace(wanted, None, useless)
    return Pace(wanted, rollout.partition, useless)


def next_to_go(pods: Sequence[Pod]) -> list[Manifest]:
    """The pod that is to be replaced next of those that serve, if there is one."""
    serving = [pod.manifest for pod in pods if pod.outdated and pod.ready]
    return serving[:1] if any(pod.unfit for pod in pods) else serving[-1:]


def _is_one_missing_below(ordinal: int, pods: list[Pod]) -> bool:
    return sum(pod.ready for pod in pods if pod.ordinal < ordinal) < ordinal


def _surge(wanted: int, running: int, pods: Sequence[Pod]) -> Pace:
    """One pod more than wanted while pods are replaced: the first new one comes before the first old one goes."""
    inside = [pod for pod in pods if pod.ordinal < wanted]
    if any(pod.outdated for pod in inside):
        extra = any(pod.ordinal == wanted and pod.ready and not pod.outdated for pod in pods)
        return Pace(wanted + 1, 0 if extra else wanted)
    finishing = running > wanted and sum(pod.ready for pod in inside) < wanted
    return Pace(wanted + 1 if finishing else wanted)
