"""One look at one service, against an emulated API server."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kmock import KubernetesEmulator, Response
from kube_emulator import Known, resource
from operator_samples import custom_resource

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import (
    AUTOSCALERS,
    CLAIMS,
    EVENTS,
    JOBS,
    LEADER_WORKER_SETS,
    PODS,
    SECRETS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Kind,
    Manifest,
)
from textgen_operator.reconcile import LOOK_AGAIN, Reconciler
from textgen_operator.render import Defaults
from textgen_operator.render.metadata import FIELD_MANAGER, SERVICE_LABEL
from textgen_operator.status.patience import WHILE_BROKEN

UNRELATED = {"metadata": {"name": "unrelated", "namespace": "models"}, "involvedObject": {"kind": "Pod", "name": "x"}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON = 1.0
"""Seconds until a look at a service whose obstacle was met just now."""
OBJECTS = [(SERVICES, "chat-pods"), (SERVICES, "chat"), (STATEFUL_SETS, "chat")]


@pytest.fixture
def reconciler(client: Client) -> Reconciler:
    return Reconciler(client, Defaults(image="server:test"), clock=lambda: NOW)


@pytest.fixture(autouse=True)
def cluster(kmock: KubernetesEmulator) -> KubernetesEmulator:
    """Knows the kinds, and holds one service."""
    for kind in (EVENTS, PODS):
        kmock.objects[resource(kind), "models", "unrelated"] = UNRELATED
    put(kmock, SERVICES_OF_OURS, custom_resource(), uid="uid-of-chat", generation=1)
    for kind in (AUTOSCALERS, CLAIMS, JOBS):
        kmock.resources[resource(kind)] = {}
    return kmock


def put(kmock: KubernetesEmulator, kind: Kind, manifest: Manifest, **meta: Any) -> None:
    stored = manifest | {"metadata": manifest["metadata"] | meta}
    kmock.objects[resource(kind), "models", stored["metadata"]["name"]] = stored


def stored(kmock: KubernetesEmulator, kind: Kind, name: str = "chat") -> Manifest:
    return dict(kmock.objects[resource(kind), "models", name])


def condition(kmock: KubernetesEmulator, name: str) -> Manifest:
    conditions = stored(kmock, SERVICES_OF_OURS)["status"]["conditions"]
    return next(dict(found) for found in conditions if found["type"] == name)


def writes(kmock: KubernetesEmulator) -> list[str]:
    """Every write but those of events."""
    asked = [f"{request.method.value} {request.url.path}" for request in kmock if request.method.value != "GET"]
    return [path for path in asked if "/events/" not in path]


def told(kmock: KubernetesEmulator) -> list[tuple[str, int]]:
    """Reason of each event that was written, and how often it had happened then."""
    return [
        (request.data["reason"], request.data["count"])
        for request in kmock
        if "/events/" in request.url.path and request.data
    ]


async def test_a_new_service_gets_its_objects_and_a_status(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    assert await reconciler.reconcile("models", "chat") == WHILE_BROKEN
    for kind, name in OBJECTS:
        (owner,) = stored(cluster, kind, name)["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("uid-of-chat", True)
    assert condition(cluster, "Accepted")["status"] == "True"
    assert condition(cluster, "Ready")["status"] == "False"
    assert len(writes(cluster)) == len(OBJECTS) + 1


async def test_a_second_look_writes_nothing(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    await reconciler.reconcile("models", "chat")
    before = writes(cluster)
    assert await reconciler.reconcile("models", "chat") == WHILE_BROKEN
    assert writes(cluster) == before


@pytest.mark.parametrize(("kind", "name"), OBJECTS)
async def test_only_what_is_missing_is_made_again(
    reconciler: Reconciler, cluster: KubernetesEmulator, kind: Kind, name: str
) -> None:
    await reconciler.reconcile("models", "chat")
    before = len(writes(cluster))
    cluster.objects[resource(kind), "models", name].delete()
    await reconciler.reconcile("models", "chat")
    assert writes(cluster)[before:] == [f"PATCH {kind.path('models', name)}"]


async def test_a_value_changed_by_hand_is_put_back(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    await reconciler.reconcile("models", "chat")
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].patch({"spec": {"replicas": 7}})
    await reconciler.reconcile("models", "chat")
    assert stored(cluster, STATEFUL_SETS)["spec"]["replicas"] == 1
    assert told(cluster) == [("Created", 1), ("Scaled", 1), ("DriftCorrected", 1)]
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].patch({"spec": {"replicas": 7}})
    await reconciler.reconcile("models", "chat")
    assert told(cluster)[3:] == [("Scaled", 2), ("DriftCorrected", 2)]


async def test_a_foreign_object_is_reported_and_nothing_is_written(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    foreign = {"metadata": {"name": "chat", "namespace": "models", "uid": "x"}, "spec": {"ports": [{"port": 1}]}}
    put(cluster, SERVICES, foreign)
    assert await reconciler.reconcile("models", "chat") == SOON
    for name in ("Accepted", "Ready"):
        assert (condition(cluster, name)["status"], condition(cluster, name)["reason"]) == ("False", "NameConflict")
    assert "Service chat exists" in condition(cluster, "Accepted")["message"]
    assert stored(cluster, SERVICES) == foreign
    assert writes(cluster) == [f"PATCH {SERVICES_OF_OURS.path('models', 'chat')}/status"]


async def test_the_child_of_an_earlier_service_of_that_name_is_foreign(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    await reconciler.reconcile("models", "chat")
    put(cluster, SERVICES_OF_OURS, custom_resource(), uid="uid-of-the-next", generation=1)
    assert await reconciler.reconcile("models", "chat") == SOON
    assert condition(cluster, "Accepted")["reason"] == "NameConflict"


async def test_the_statefulset_that_a_leaderworkerset_of_ours_made_is_waited_for(
    client: Client, cluster: KubernetesEmulator
) -> None:
    for kind in (LEADER_WORKER_SETS, SECRETS):
        cluster.resources[resource(kind)] = {}
    reconciler = Reconciler(client, Defaults(), clock=lambda: NOW, holdings=Known(frozenset({LEADER_WORKER_SETS})))
    put(cluster, SERVICES_OF_OURS, custom_resource(nodes=2), uid="uid-of-chat", generation=1)
    await reconciler.reconcile("models", "chat")
    made = stored(cluster, LEADER_WORKER_SETS)
    # Its controller makes one of the same name, of the leaders.
    owner = {"kind": LEADER_WORKER_SETS.name, "name": "chat", "uid": made["metadata"]["uid"], "controller": True}
    put(cluster, STATEFUL_SETS, {"metadata": {"name": "chat", "ownerReferences": [owner]}, "spec": {"replicas": 1}})

    put(cluster, SERVICES_OF_OURS, custom_resource(), uid="uid-of-chat", generation=2)
    for _ in range(2):  # with the LeaderWorkerSet, and when only what it made is left
        assert await reconciler.reconcile("models", "chat") == LOOK_AGAIN
        assert condition(cluster, "Accepted")["status"] == "True"
        assert await client.get(LEADER_WORKER_SETS.path("models", "chat")) is None
        assert stored(cluster, STATEFUL_SETS)["metadata"]["ownerReferences"] == [owner]
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].delete()
    assert await reconciler.reconcile("models", "chat") == WHILE_BROKEN
    assert stored(cluster, STATEFUL_SETS)["metadata"]["ownerReferences"][0]["uid"] == "uid-of-chat"


async def test_what_lost_its_owner_is_taken_back(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    await reconciler.reconcile("models", "chat")
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].patch({"metadata": {"ownerReferences": []}})
    assert await reconciler.reconcile("models", "chat") == WHILE_BROKEN
    (owner,) = stored(cluster, STATEFUL_SETS)["metadata"]["ownerReferences"]
    assert owner["uid"] == "uid-of-chat"


async def test_an_object_that_merely_bears_our_label_is_foreign(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    labelled = {"metadata": {"name": "chat", "namespace": "models", "uid": "x", "labels": {SERVICE_LABEL: "chat"}}}
    put(cluster, STATEFUL_SETS, labelled)
    assert await reconciler.reconcile("models", "chat") == SOON
    assert stored(cluster, STATEFUL_SETS) == labelled


async def test_an_invalid_spec_leaves_what_runs_as_it_is(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    await reconciler.reconcile("models", "chat")
    before = stored(cluster, STATEFUL_SETS)
    put(cluster, SERVICES_OF_OURS, custom_resource(fromTheFuture=1, replicas=4), uid="uid-of-chat", generation=2)
    assert await reconciler.reconcile("models", "chat") is None
    assert stored(cluster, STATEFUL_SETS) == before
    accepted = condition(cluster, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert accepted["message"] == "spec.fromTheFuture: there is no such field"


async def test_what_the_api_server_refuses_is_in_the_status_and_tried_again(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    refusal = {"kind": "Status", "reason": "Forbidden", "message": "exceeded quota: gpus"}
    path = STATEFUL_SETS.path("models", "chat")
    cluster.objects[resource(STATEFUL_SETS), "models", "other"] = {"metadata": {"name": "other"}}
    cluster["patch", path] << 403 << refusal
    with pytest.raises(ApiError, match="exceeded quota: gpus"):
        await reconciler.reconcile("models", "chat")
    ready = condition(cluster, "Ready")
    assert (ready["reason"], ready["message"]) == ("ReconcileError", "exceeded quota: gpus")
    assert condition(cluster, "Accepted")["status"] == "True"


async def test_trouble_of_the_api_server_is_not_blamed_on_the_service(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    cluster["patch", STATEFUL_SETS.path("models", "chat")] << 500
    with pytest.raises(ApiError):
        await reconciler.reconcile("models", "chat")
    assert "status" not in stored(cluster, SERVICES_OF_OURS)


async def test_a_change_that_cannot_be_made_in_place_makes_the_statefulset_anew(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    await reconciler.reconcile("models", "chat")
    uid = stored(cluster, STATEFUL_SETS)["metadata"]["uid"]
    spec = custom_resource(cache={"type": "PerReplica"})
    put(cluster, SERVICES_OF_OURS, spec, uid="uid-of-chat", generation=2)
    assert await reconciler.reconcile("models", "chat") == LOOK_AGAIN
    (deletion,) = [request for request in cluster if request.method.value == "DELETE"]
    assert deletion.data == {"propagationPolicy": "Orphan", "preconditions": {"uid": uid}}

    assert await reconciler.reconcile("models", "chat") == WHILE_BROKEN
    (claim,) = stored(cluster, STATEFUL_SETS)["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "cache"


async def test_nothing_is_written_to_an_object_on_its_way_out(
    reconciler: Reconciler, cluster: KubernetesEmulator
) -> None:
    await reconciler.reconcile("models", "chat")
    leaving = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"minReadySeconds": 1}}
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].patch(leaving)
    before = writes(cluster)
    assert await reconciler.reconcile("models", "chat") == LOOK_AGAIN
    assert writes(cluster) == before


@pytest.mark.parametrize("meta", [{"deletionTimestamp": "2026-01-01T00:00:00Z"}, None])
async def test_a_service_that_goes_or_is_gone_is_left_to_the_garbage_collector(
    reconciler: Reconciler, cluster: KubernetesEmulator, meta: dict[str, str] | None
) -> None:
    if meta:
        put(cluster, SERVICES_OF_OURS, custom_resource(), **meta)
    else:
        cluster.objects[resource(SERVICES_OF_OURS), "models", "chat"].delete()
    assert await reconciler.reconcile("models", "chat") is None
    assert writes(cluster) == []


@pytest.mark.parametrize(("failure", "at_once"), [(403, True), (503, False)])
async def test_what_cannot_be_read_is_unknown_until_it_can_be(
    client: Client, cluster: KubernetesEmulator, failure: int, at_once: bool
) -> None:
    now = NOW
    reconciler = Reconciler(client, Defaults(image="server:test"), clock=lambda: now)
    await reconciler.reconcile("models", "chat")
    before = stored(cluster, SERVICES_OF_OURS)["status"]
    fails = True
    answer = Response(status=failure)
    cluster["get", STATEFUL_SETS.path("models", "chat")] << (lambda request: answer if fails else NotImplemented)

    async def look(minutes: int) -> tuple[str, str]:
        nonlocal now
        now += timedelta(minutes=minutes)
        with pytest.raises(ApiError):
            await reconciler.reconcile("models", "chat")
        ready = condition(cluster, "Ready")
        return ready["status"], ready["reason"]

    unknown = ("Unknown", "Unreadable")
    assert await look(1) == (unknown if at_once else ("False", "RollingOut"))
    assert await look(2) == unknown
    assert f"HTTP {failure}" in condition(cluster, "Progressing")["message"]
    written = writes(cluster)
    assert await look(1) == unknown
    assert writes(cluster) == written
    fails = False
    now = NOW
    await reconciler.reconcile("models", "chat")
    assert stored(cluster, SERVICES_OF_OURS)["status"] == before


async def test_a_definition_that_is_too_old_for_a_field_costs_the_field_and_not_the_status(
    reconciler: Reconciler, cluster: KubernetesEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    said = "failed to create typed patch object (models/chat): errors:\n  .status.cache: field not declared in schema"
    refusal = Response(status=500, payload={"kind": "Status", "message": said})
    path = f"{SERVICES_OF_OURS.path('models', 'chat')}/status"
    cluster["patch", path] << (lambda request: refusal if "cache" in request.data["status"] else NotImplemented)
    await reconciler.reconcile("models", "chat")
    sent = [request.data["status"].keys() for request in cluster if request.url.path == path]
    assert ["cache" in fields for fields in sent] == [True, False]
    assert condition(cluster, "Accepted")["status"] == "True"
    assert "too old for cache: upgrade it" in caplog.text
    # It is not tried again at each look.
    written = writes(cluster)
    await reconciler.reconcile("models", "chat")
    assert writes(cluster) == written


async def test_every_write_is_ours_by_name(reconciler: Reconciler, cluster: KubernetesEmulator) -> None:
    await reconciler.reconcile("models", "chat")
    managers = {request.params["fieldManager"] for request in cluster if request.method.value == "PATCH"}
    assert managers == {FIELD_MANAGER}


async def test_killed_at_any_write_the_next_operator_ends_where_it_would_have_ended(
    client: Client, cluster: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = client._send
    left = 0

    async def send_until_killed(method: str, path: str, **options: Any) -> Any:
        nonlocal left
        if method != "GET":
            if left == 0:
                raise KilledError
            left -= 1
        return await send(method, path, **options)

    async def look() -> None:
        await Reconciler(client, Defaults(image="server:test"), clock=lambda: NOW).reconcile("models", "chat")

    monkeypatch.setattr(client, "_send", send_until_killed)
    for writes_before in range(3):
        # There and back: each makes the StatefulSet anew.
        for cache in ({"type": "PerReplica"}, {"type": "Ephemeral"}):
            put(cluster, SERVICES_OF_OURS, custom_resource(cache=cache), uid="uid-of-chat", generation=1)
            left = writes_before
            with suppress(KilledError):
                await look()
                await look()
            left = -1
            await look()
            await look()
            claims = stored(cluster, STATEFUL_SETS)["spec"].get("volumeClaimTemplates", [])
            assert len(claims) == (1 if cache["type"] == "PerReplica" else 0)
            assert condition(cluster, "Accepted")["status"] == "True"


class KilledError(BaseException):
    """The process ends here."""
