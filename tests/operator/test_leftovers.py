"""What nothing asks for any more goes, rivals go first, and kinds that the cluster lacks are waited for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kmock import KubernetesEmulator
from kube_emulator import Known, resource
from operator_samples import custom_resource

from textgen_operator.client import Client
from textgen_operator.kinds import (
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
    EVENTS,
    POD_MONITORS,
    PODS,
    SCALED_OBJECTS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Kind,
    Manifest,
)
from textgen_operator.reconcile import LOOK_AGAIN, Reconciler
from textgen_operator.render import Defaults

KINDS = (AUTOSCALERS, DISRUPTION_BUDGETS, EVENTS, PODS, POD_MONITORS, SCALED_OBJECTS, SERVICES, STATEFUL_SETS)
KEDA = {"engine": "KEDA", "maxReplicas": 6, "prometheus": {"address": "http://prometheus:9090"}}
HPA = {"maxReplicas": 6}


@pytest.fixture
def known() -> Known:
    return Known(frozenset({SCALED_OBJECTS}))


@pytest.fixture
def reconciler(client: Client, known: Known, kmock: KubernetesEmulator) -> Reconciler:
    for kind in KINDS:
        kmock.resources[resource(kind)] = {"kind": kind.name, "namespaced": True, "verbs": ["list"]}
    return Reconciler(client, Defaults(), lambda: datetime(2026, 1, 1, tzinfo=UTC), holdings=known)


async def look(reconciler: Reconciler, kmock: KubernetesEmulator, generation: int = 1, **spec: Any) -> float | None:
    """One look at a service with that spec."""
    body = custom_resource(**spec)
    body["metadata"] |= {"uid": "uid-of-chat", "generation": generation}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = body
    return await reconciler.reconcile("models", "chat")


def live(kmock: KubernetesEmulator, kind: Kind) -> Manifest:
    """The object of that kind, or an empty one."""
    try:
        found = kmock.objects[resource(kind), "models", "chat"]
    except KeyError:
        return {}
    return {} if found.deleted else dict(found)


def condition(kmock: KubernetesEmulator, name: str) -> tuple[str, str] | None:
    for found in live(kmock, SERVICES_OF_OURS)["status"]["conditions"]:
        if found["type"] == name:
            return found["status"], found["reason"]
    return None


async def test_what_nothing_asks_for_any_more_is_deleted(
    reconciler: Reconciler, known: Known, kmock: KubernetesEmulator
) -> None:
    await look(reconciler, kmock, replicas=2)
    assert live(kmock, DISRUPTION_BUDGETS)
    known.found = {(DISRUPTION_BUDGETS, "chat"), (STATEFUL_SETS, "chat"), (STATEFUL_SETS, "other")}
    await look(reconciler, kmock, 2, replicas=1)
    assert not live(kmock, DISRUPTION_BUDGETS)
    deleted = [request.url.path for request in kmock if request.method.value == "DELETE"]
    assert deleted == [DISRUPTION_BUDGETS.path("models", "chat")]


async def test_what_others_made_is_left_alone(reconciler: Reconciler, known: Known, kmock: KubernetesEmulator) -> None:
    theirs = {"metadata": {"name": "chat", "namespace": "models", "uid": "x"}, "spec": {}}
    kmock.objects[resource(DISRUPTION_BUDGETS), "models", "chat"] = theirs
    known.found = {(DISRUPTION_BUDGETS, "chat")}
    await look(reconciler, kmock)
    assert live(kmock, DISRUPTION_BUDGETS) == theirs


@pytest.mark.parametrize(("first", "second"), [(HPA, KEDA), (KEDA, HPA)])
async def test_one_scaler_is_gone_before_the_other_is_made(
    reconciler: Reconciler, kmock: KubernetesEmulator, first: Any, second: Any
) -> None:
    # Nothing is known of the first by any watch: it must not stay for all that.
    old, new = (AUTOSCALERS, SCALED_OBJECTS) if first is HPA else (SCALED_OBJECTS, AUTOSCALERS)
    await look(reconciler, kmock, autoscaling=first)
    assert live(kmock, old)
    assert await look(reconciler, kmock, 2, autoscaling=second) == LOOK_AGAIN
    assert not live(kmock, old)
    assert not live(kmock, new)
    await look(reconciler, kmock, 2, autoscaling=second)
    assert live(kmock, new)


async def test_a_scaler_that_takes_its_time_to_go_is_waited_for(
    reconciler: Reconciler, kmock: KubernetesEmulator
) -> None:
    await look(reconciler, kmock, autoscaling=KEDA)
    leaving = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    kmock.objects[resource(SCALED_OBJECTS), "models", "chat"].patch(leaving)
    assert await look(reconciler, kmock, 2, autoscaling=HPA) == LOOK_AGAIN
    assert not live(kmock, AUTOSCALERS)
    assert not [request for request in kmock if request.method.value == "DELETE"]
    assert condition(kmock, "ScalingActive") == ("False", "ScalerMissing")


async def test_the_operator_alone_writes_the_replicas_and_never_those_of_the_spec(
    reconciler: Reconciler, kmock: KubernetesEmulator
) -> None:
    await look(reconciler, kmock, autoscaling=HPA, replicas=5)
    assert live(kmock, STATEFUL_SETS)["spec"]["replicas"] == 5
    assert live(kmock, SERVICES_OF_OURS)["spec"]["replicas"] == 5
    paths = {request.url.path for request in kmock if request.method.value == "PATCH"}
    assert SERVICES_OF_OURS.path("models", "chat") not in paths
    assert condition(kmock, "ScalingActive") == ("Unknown", "Pending")


async def test_what_the_cluster_lacks_is_said_and_the_rest_made(
    reconciler: Reconciler, known: Known, kmock: KubernetesEmulator
) -> None:
    known.served = frozenset()
    await look(reconciler, kmock, autoscaling=KEDA, metrics={"monitor": "Enabled"})
    assert live(kmock, STATEFUL_SETS)
    assert not live(kmock, POD_MONITORS)
    assert condition(kmock, "ScalingActive") == ("False", "ScalerMissing")
    assert condition(kmock, "Integrated") == ("False", "KindNotServed")
    assert condition(kmock, "Accepted") == ("True", "Accepted")

    known.served = frozenset({SCALED_OBJECTS, POD_MONITORS})
    await look(reconciler, kmock, 2, autoscaling=KEDA, metrics={"monitor": "Enabled"})
    assert live(kmock, POD_MONITORS)
    assert live(kmock, SCALED_OBJECTS)
    assert condition(kmock, "Integrated") is None


@pytest.mark.parametrize(
    ("scaling", "kind", "own", "seen"),
    [
        (HPA, AUTOSCALERS, {"type": "ScalingActive", "status": "True"}, ("True", "Scaling")),
        (HPA, AUTOSCALERS, {"type": "ScalingActive", "status": "False"}, ("False", "MetricsUnavailable")),
        (KEDA, SCALED_OBJECTS, {"type": "Ready", "status": "True"}, ("True", "Scaling")),
    ],
)
async def test_the_scalers_own_word_is_passed_on(
    reconciler: Reconciler, kmock: KubernetesEmulator, scaling: Any, kind: Kind, own: Any, seen: tuple[str, str]
) -> None:
    await look(reconciler, kmock, autoscaling=scaling)
    kmock.objects[resource(kind), "models", "chat"].patch({"status": {"conditions": [own]}})
    await look(reconciler, kmock, 2, autoscaling=scaling)
    assert condition(kmock, "ScalingActive") == seen


async def test_a_suspended_service_says_so(reconciler: Reconciler, kmock: KubernetesEmulator) -> None:
    await look(reconciler, kmock, replicas=2, suspend=True, autoscaling=HPA)
    assert live(kmock, STATEFUL_SETS)["spec"]["replicas"] == 0
    assert condition(kmock, "Ready") == ("False", "Suspended")
    assert condition(kmock, "ScalingActive") is None
    assert live(kmock, SERVICES_OF_OURS)["status"]["phase"] == "Suspended"
