"""Scalers that somebody else has set upon a service."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kmock import KubernetesEmulator
from kube_emulator import resource
from operator_rendered import statefulset
from operator_samples import custom_resource, service

from textgen_operator.client import Client
from textgen_operator.foreign_scalers import SCALERS, ForeignScaler, find, left_to
from textgen_operator.kinds import AUTOSCALERS, SCALED_OBJECTS, Kind, Manifest
from textgen_operator.resource import API_VERSION, KIND
from textgen_operator.status import Intent, Observed, status_of

THE_SERVICE = {"apiVersion": API_VERSION, "kind": KIND, "name": "chat"}
ITS_PODS = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "chat"}
OF_PODS = ForeignScaler("HorizontalPodAutoscaler web", "StatefulSet chat", scales_pods=True)
OF_SERVICE = ForeignScaler("ScaledObject web", f"{KIND} chat", scales_pods=False, wakes=True)
BY_KEDA = ForeignScaler("ScaledObject web", "StatefulSet chat", scales_pods=True, wakes=True)


def scaler(target: dict[str, str], **meta: Any) -> Manifest:
    return {"metadata": {"name": "web", "namespace": "models", **meta}, "spec": {"scaleTargetRef": target}}


def controlled_by(kind: str) -> list[Manifest]:
    return [{"kind": kind, "name": "x", "uid": "x", "controller": True}]


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        (AUTOSCALERS, scaler(ITS_PODS), OF_PODS),
        (SCALED_OBJECTS, scaler(THE_SERVICE), OF_SERVICE),
        (SCALED_OBJECTS, scaler(ITS_PODS), BY_KEDA),
        (AUTOSCALERS, scaler(ITS_PODS | {"name": "other"}), None),
        (AUTOSCALERS, scaler(ITS_PODS | {"kind": "Deployment"}), None),
        (SCALED_OBJECTS, scaler({"name": "chat"}), None),
        (AUTOSCALERS, scaler(THE_SERVICE, ownerReferences=controlled_by("ScaledObject")), None),
        (AUTOSCALERS, scaler(THE_SERVICE, labels={"ours": "yes"}), None),
    ],
    ids=[
        "pods",
        "service",
        "pods, by KEDA",
        "another",
        "another kind",
        "a Deployment, by KEDA's default",
        "KEDA's own",
        "ours",
    ],
)
async def test_scalers_of_others_are_found(
    kmock: KubernetesEmulator, client: Client, kind: Kind, found: Manifest, expected: ForeignScaler | None
) -> None:
    for other in SCALERS:
        kmock.resources[resource(other)] = {}
    kmock.objects[resource(kind), "models", "web"] = found
    asked = service()
    assert await find(client, asked, SCALERS, lambda live: "ours" in live["metadata"].get("labels", {})) == expected


def workload(replicas: int) -> Manifest:
    live = statefulset(replicas=replicas)
    return live | {"metadata": live["metadata"] | {"generation": 1}}


def replicas_left_to(scaler: ForeignScaler | None, live: Manifest | None, **spec: Any) -> int:
    return left_to(scaler, service(replicas=2, **spec), live).spec.replicas


def test_the_number_of_pods_is_left_to_a_scaler_of_pods() -> None:
    assert replicas_left_to(OF_PODS, workload(5)) == 5
    assert replicas_left_to(OF_SERVICE, workload(5)) == 2
    assert replicas_left_to(None, workload(5)) == 2
    assert replicas_left_to(OF_PODS, None) == 2
    # At zero a scaler rests, and would never bring back what was suspended.
    assert replicas_left_to(OF_PODS, workload(0)) == 2
    # KEDA does, and would take away again what is started in its place.
    assert replicas_left_to(BY_KEDA, workload(0)) == 0
    # These count pods up and down themselves.
    assert replicas_left_to(OF_PODS, workload(3), rollout={"strategy": "Surge"}) == 2


def scaling(foreign: ForeignScaler, **spec: Any) -> tuple[str, str]:
    intent = Intent(service(**spec), "http://chat", foreign_scaler=foreign)
    resource = custom_resource() | {"metadata": {"name": "chat", "namespace": "models", "generation": 1}}
    status = status_of(resource, Observed(intent=intent), datetime(2026, 1, 1, tzinfo=UTC))
    (found,) = [each for each in status["conditions"] if each["type"] == "ScalingActive"]
    assert foreign.name in found["message"]
    return found["status"], found["reason"]


def test_a_foreign_scaler_is_named_in_the_status() -> None:
    assert scaling(OF_PODS) == ("False", "ForeignScaler")
    assert scaling(OF_SERVICE) == ("True", "ForeignScaler")
    assert scaling(OF_SERVICE, autoscaling={"maxReplicas": 3}) == ("False", "ForeignScaler")
