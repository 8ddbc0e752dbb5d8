"""What a plan says of objects that are there already. Dry runs are the real API server's: tests/cluster has them."""

from typing import Any

from kmock import KubernetesEmulator
from kube_emulator import Known, resource
from operator_samples import custom_resource, service

from textgen_operator.client import Client
from textgen_operator.kinds import (
    CLAIMS,
    EVENTS,
    LEADER_WORKER_SETS,
    OPTIONAL,
    PODS,
    PRUNED,
    SECRETS,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
)
from textgen_operator.plan import make_plan
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults

RETAINED = {"type": "Shared", "retain": True, "warm": False}


async def test_what_goes_with_its_maker_blocks_nothing_and_what_is_retained_is_not_deleted(
    client: Client, kmock: KubernetesEmulator
) -> None:
    for kind in (*PRUNED, EVENTS, PODS, SECRETS):
        if kind not in OPTIONAL or kind == LEADER_WORKER_SETS:
            kmock.resources[resource(kind)] = {"kind": kind.name, "namespaced": True, "verbs": ["list"]}
    body = custom_resource(nodes=2, cache=RETAINED)
    body["metadata"] |= {"uid": "uid-of-chat", "generation": 1}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = body
    await Reconciler(client, Defaults(image="server:test"), holdings=Known(frozenset({LEADER_WORKER_SETS}))).reconcile(
        "models", "chat"
    )
    made = kmock.objects[resource(LEADER_WORKER_SETS), "models", "chat"]["metadata"]
    owner = {"kind": LEADER_WORKER_SETS.name, "name": "chat", "uid": made["uid"], "controller": True}
    of_leaders: dict[str, Any] = {"metadata": {"name": "chat", "ownerReferences": [owner]}, "spec": {"replicas": 1}}
    kmock.objects[resource(STATEFUL_SETS), "models", "chat"] = of_leaders

    plan = await make_plan(client, service(), None)
    actions = {step.what: step.action for step in plan.steps}
    assert actions["LeaderWorkerSet chat"] == "delete"
    assert actions["StatefulSet chat"] == "create"
    assert not plan.is_blocked
    assert await client.get(CLAIMS.path("models", "chat-cache")) is not None
    assert "PersistentVolumeClaim chat-cache" not in actions
