"""Scalers that somebody else has set upon a service, or upon what carries its pods: told of, and not fought.

On the resource's own scale they are welcome, as long as the service has none itself. On the workload they write what
the operator writes: so that neither undoes what the other did, the operator then leaves the number of pods to them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from textgen_operator.client import Client
from textgen_operator.kinds import (
    AUTOSCALERS,
    LEADER_WORKER_SETS,
    SCALED_OBJECTS,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Kind,
    Manifest,
)
from textgen_operator.resource import TextGenerationService
from textgen_operator.workloads import workload_of

SCALERS = (SCALED_OBJECTS, AUTOSCALERS)

_UNSAID = {"apiVersion": "apps/v1", "kind": "Deployment"}
"""What KEDA takes a target for that does not say what it is."""


@dataclass(frozen=True)
class ForeignScaler:
    """A scaler of somebody else.

    Attributes:
        name: its kind and name.
        target: kind and name of what it scales.
        scales_pods: whether that is what carries the pods, and not the service.
        wakes: whether it starts the first replica itself.
    """

    name: str
    target: str
    scales_pods: bool
    wakes: bool = False


async def find(
    client: Client, service: TextGenerationService, kinds: Iterable[Kind], is_ours: Callable[[Manifest], bool]
) -> ForeignScaler | None:
    """The first scaler of the service that is not its own, one of its pods before one of itself; or None.

    Args:
        client: the API server.
        service: whose.
        kinds: those of SCALERS that the cluster knows.
        is_ours: whether a live object belongs to the service.

    Raises:
        ApiError: the API server refused.
    """
    found = []
    for kind in kinds:
        for scaler in await client.items(kind.path(service.metadata.namespace)):
            seen = _seen(kind, scaler, service)
            if seen is not None and not _belongs_to_keda(scaler) and not is_ours(scaler):
                found.append(seen)
    return min(found, key=lambda each: (not each.scales_pods, each.name), default=None)


def _seen(kind: Kind, scaler: Manifest, service: TextGenerationService) -> ForeignScaler | None:
    """What a scaler does to the service; None when it does nothing."""
    ref = _UNSAID | scaler["spec"].get("scaleTargetRef", {})
    group, name = ref["apiVersion"].rpartition("/")[0], ref.get("name")
    for target in (SERVICES_OF_OURS, STATEFUL_SETS, LEADER_WORKER_SETS):
        if (group, ref["kind"], name) == (target.group, target.name, service.metadata.name):
            who = f"{kind.name} {scaler['metadata']['name']}"
            of_pods = target != SERVICES_OF_OURS
            return ForeignScaler(who, f"{target.name} {name}", of_pods, wakes=kind == SCALED_OBJECTS)
    return None


def _belongs_to_keda(scaler: Manifest) -> bool:
    """Whether it is the HorizontalPodAutoscaler that KEDA makes of a ScaledObject, which is looked at itself."""
    owners = scaler["metadata"].get("ownerReferences", [])
    return any(owner.get("controller") and owner["kind"] == SCALED_OBJECTS.name for owner in owners)


def left_to(
    scaler: ForeignScaler | None, service: TextGenerationService, workload: Manifest | None
) -> TextGenerationService:
    """The service with as many replicas as a scaler of its pods has given it.

    Not where rollouts change that number (Surge, Recreate), nor at zero, where scalers rest that do not wake it.
    """
    if scaler is None or not scaler.scales_pods or service.spec.rollout.strategy in ("Surge", "Recreate"):
        return service
    if workload is None or f"{workload['kind']} {workload['metadata']['name']}" != scaler.target:
        return service
    given = workload_of(workload).tally(workload, ()).wanted
    replicas = given if given or scaler.wakes else service.spec.replicas
    return service.model_copy(update={"spec": service.spec.model_copy(update={"replicas": replicas})})
