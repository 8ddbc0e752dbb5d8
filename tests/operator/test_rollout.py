"""Which pods are replaced, by what, and when."""

import base64
import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kmock import KubernetesEmulator
from kube_emulator import resource
from operator_samples import custom_resource, service

from textgen_operator.client import Client
from textgen_operator.kinds import AUTOSCALERS, EVENTS, PODS, SECRETS, SERVICES_OF_OURS, STATEFUL_SETS, Kind, Manifest
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults, statefulset
from textgen_operator.resource import Rollout
from textgen_operator.rollout import pinning, rotation
from textgen_operator.rollout.idleness import REQUESTS_IN_FLIGHT, Idleness, in_flight
from textgen_operator.rollout.pace import Pace, Pod, pace
from textgen_operator.workloads import PODS_FROM

NOW = datetime(2026, 1, 1, tzinfo=UTC)


# --- the pace ---------------------------------------------------------------------------------------------------------


def pods(states: str) -> list[Pod]:
    """One pod for each word: "old" or "new" for its revision, "bare" for an old one without the volume of a new claim
    template, "!" when it does not serve, "-" for none."""
    found = []
    for ordinal, state in enumerate(states.split()):
        if state != "-":
            manifest = {"metadata": {"name": f"chat-{ordinal}", "uid": f"uid-{ordinal}"}}
            outdated, unfit = state.startswith(("old", "bare")), state.startswith("bare")
            found.append(Pod(ordinal, outdated, not state.endswith("!"), False, manifest, unfit))
    return found


def step(states: str, wanted: int, *, running: int | None = None, busy: bool = False, **rollout: Any) -> Pace:
    parts = Rollout.model_validate(rollout)
    return pace(parts, wanted, wanted if running is None else running, pods(states), lambda _: not busy)


def removed(pace: Pace) -> list[str]:
    return [pod["metadata"]["name"] for pod in pace.remove]


@pytest.mark.parametrize(
    ("states", "partition", "gone"),
    [
        ("new new", 0, []),
        ("old old", 0, []),
        ("old new!", 0, []),
        # A pod that does not serve is replaced at once, wherever it is.
        ("old! new!", 0, ["chat-0"]),
        ("old! old!", 0, ["chat-0", "chat-1"]),
        # Kubernetes would take chat-1, the last one that serves: it has to wait for chat-0.
        ("old! old", None, ["chat-0"]),
        ("new! old", None, []),
        ("- old", None, []),
        ("new old", 0, []),
    ],
)
def test_rolling_never_takes_the_last_good_pod_for_one_that_may_not_start(
    states: str, partition: int | None, gone: list[str]
) -> None:
    found = step(states, 2)
    assert (found.replicas, found.partition, removed(found)) == (2, partition, gone)


@pytest.mark.parametrize("strategy", ["Rolling", "Surge"])
@pytest.mark.parametrize(
    ("states", "gone"),
    [
        ("bare bare bare", ["chat-0"]),
        ("bare bare bare!", ["chat-2"]),
        ("- bare bare", []),
        ("new! bare bare", []),
        ("new bare bare", ["chat-1"]),
        ("new new bare", ["chat-2"]),
    ],
)
def test_pods_that_lack_a_new_claim_go_from_the_lowest_up_because_the_statefulset_stops_at_the_first(
    strategy: str, states: str, gone: list[str]
) -> None:
    found = step(states, 3, strategy=strategy)
    assert (found.replicas, found.partition, removed(found)) == (3, None, gone)


@pytest.mark.parametrize(
    ("states", "busy", "gone"),
    [
        ("old old", False, ["chat-1"]),
        ("old old", True, []),
        ("old new!", False, []),
        ("old new", False, ["chat-0"]),
        ("old! new", True, ["chat-0"]),
        ("new new", False, []),
    ],
)
def test_waiting_for_idle_takes_one_pod_after_the_other_when_it_is_idle(
    states: str, busy: bool, gone: list[str]
) -> None:
    found = step(states, 2, busy=busy, waitForIdleSeconds=60)
    assert (found.replicas, found.partition, removed(found)) == (2, None, gone)


@pytest.mark.parametrize(
    ("states", "running", "expected"),
    [
        ("old old", 2, (3, 2)),
        ("old old new!", 3, (3, 2)),
        ("old old old!", 3, (3, 2)),
        ("old old new", 3, (3, 0)),
        ("old new! new", 3, (3, 0)),
        ("new! new new", 3, (3, 0)),
        ("new new new", 3, (2, 0)),
        ("new! new", 2, (2, 0)),
    ],
)
def test_a_surge_has_one_pod_more_until_all_are_new(states: str, running: int, expected: tuple[int, int]) -> None:
    found = step(states, 2, running=running, strategy="Surge")
    assert (found.replicas, found.partition, removed(found)) == (*expected, [])


@pytest.mark.parametrize(("states", "replicas"), [("old old", 0), ("old! -", 0), ("", 2), ("new! new", 2)])
def test_recreate_deletes_all_and_then_makes_all(states: str, replicas: int) -> None:
    assert step(states, 2, strategy="Recreate") == Pace(replicas)


def test_partition_pause_and_on_delete_leave_pods_alone() -> None:
    assert step("old old! old!", 3, partition=2) == Pace(3, 2, tuple(pod.manifest for pod in pods("- - old!")))
    assert step("old old!", 2, paused=True) == Pace(2, partition=2)
    assert step("old old!", 2, strategy="OnDelete") == Pace(2, partition=None)


# --- idleness ---------------------------------------------------------------------------------------------------------


async def test_a_pod_is_idle_when_its_metrics_say_so_or_when_patience_ends() -> None:
    running, now = 1, 0.0

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=f"# HELP\n{REQUESTS_IN_FLIGHT} {running}.0\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    pod = {"metadata": {"uid": "u"}, "status": {"podIP": "127.0.0.1"}}
    async with TestServer(app) as server:
        assert server.port is not None
        idleness = Idleness(server.port, lambda: now)
        assert not await idleness.may_go(pod, 60, tls=False)
        now = 61
        assert await idleness.may_go(pod, 60, tls=False)
        running, now = 0, 1
        assert await idleness.may_go(pod, 60, tls=False)
    assert not await idleness.may_go(pod, 60, tls=False)


def test_the_servers_metrics_tell_of_requests_in_flight() -> None:
    from textgen_server import telemetry

    assert telemetry.REQUESTS_IN_FLIGHT == REQUESTS_IN_FLIGHT
    assert in_flight(f'{REQUESTS_IN_FLIGHT}{{route="a"}} 1.0\n{REQUESTS_IN_FLIGHT}{{route="b"}} 2.0\n') == 3
    assert in_flight("something_else 1\n") is None


# --- through the reconciler -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cluster(kmock: KubernetesEmulator) -> KubernetesEmulator:
    for kind in (AUTOSCALERS, EVENTS, SECRETS, PODS):
        kmock.resources[resource(kind)] = {}
    put(kmock, replicas=2)
    return kmock


def put(kmock: KubernetesEmulator, **spec: Any) -> None:
    stored = custom_resource(**spec)
    stored["metadata"] |= {"uid": "uid-of-chat", "generation": 1}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = stored


def live(kmock: KubernetesEmulator, kind: Kind = STATEFUL_SETS) -> Manifest:
    return dict(kmock.objects[resource(kind), "models", "chat"])


def template(kmock: KubernetesEmulator) -> Manifest:
    return copy.deepcopy(dict(live(kmock)["spec"]["template"]))


def image(kmock: KubernetesEmulator) -> str:
    return str(template(kmock)["spec"]["containers"][0]["image"])


@pytest.fixture
def looks(client: Client) -> Callable[[str], Any]:
    """Looks of an operator whose default image is the one given."""
    return lambda image: Reconciler(client, Defaults(image=image), clock=lambda: NOW).reconcile("models", "chat")


async def test_an_upgrade_of_the_operator_replaces_no_pod_until_the_spec_changes(
    looks: Callable[[str], Any], cluster: KubernetesEmulator
) -> None:
    await looks("server:1")
    before = template(cluster)
    await looks("server:2")
    assert template(cluster) == before

    # Not even when what is changed does not concern pods; and what drifts is put back as it was.
    put(cluster, replicas=3, rollout={"partition": 1})
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].patch(
        {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
    )
    await looks("server:2")
    assert template(cluster) == before
    assert live(cluster)["spec"]["replicas"] == 3

    # Nor when the StatefulSet has to be made anew.
    cluster.objects[resource(STATEFUL_SETS), "models", "chat"].delete()
    await looks("server:2")
    assert template(cluster) == before

    put(cluster, replicas=3, dtype="float16")
    await looks("server:2")
    assert image(cluster) == "server:2"


async def test_who_wants_upgrades_at_once_gets_them(looks: Callable[[str], Any], cluster: KubernetesEmulator) -> None:
    put(cluster, rollout={"onOperatorUpgrade": "Roll"})
    await looks("server:1")
    await looks("server:2")
    assert image(cluster) == "server:2"


async def test_a_record_that_somebody_else_wrote_is_not_believed(
    looks: Callable[[str], Any], cluster: KubernetesEmulator
) -> None:
    await looks("server:1")
    stored = cluster.objects[resource(STATEFUL_SETS), "models", "chat"]
    forged = live(cluster)["metadata"]["annotations"][PODS_FROM].replace("server:1", "evil:1")
    (entry,) = copy.deepcopy(list(live(cluster)["metadata"]["managedFields"]))
    del entry["fieldsV1"]["f:metadata"]["f:annotations"]
    stored.patch({"metadata": {"annotations": {PODS_FROM: forged}, "managedFields": [entry]}})
    await looks("server:1")
    assert image(cluster) == "server:1"
    assert "evil" not in live(cluster)["metadata"]["annotations"][PODS_FROM]


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 5},
        {"suspend": True},
        {"autoscaling": {"maxReplicas": 4}},
        {"disruption": {"maxUnavailable": 2}},
        {"rollout": {"strategy": "Surge"}},
        {"network": {"service": {"port": 8000}}},
        {"metrics": {"monitor": "Disabled"}},
    ],
    ids=str,
)
def test_what_is_said_not_to_concern_pods_does_not(change: dict[str, Any]) -> None:
    before, after = (statefulset.render(service(**spec), Defaults()) for spec in ({}, change))
    assert before["spec"]["template"] == after["spec"]["template"]
    assert set(change) <= pinning._NOT_IN_PODS


async def test_a_secret_that_changes_replaces_pods_once(
    looks: Callable[[str], Any], cluster: KubernetesEmulator
) -> None:
    def secret(token: str) -> None:
        data = {"token": base64.b64encode(token.encode()).decode(), "other": token}
        cluster.objects[resource(SECRETS), "models", "hf"] = {"metadata": {"name": "hf"}, "data": data}

    def mark() -> Any:
        return template(cluster)["metadata"]["annotations"][rotation.ANNOTATION]

    token = {"huggingFace": {"tokenSecretRef": {"name": "hf"}}}
    put(cluster, **token)
    secret("one")
    assert await looks("server:1") is not None
    first = mark()
    await looks("server:1")
    assert mark() == first
    secret("two")
    await looks("server:1")
    assert (second := mark()) != first

    put(cluster, **token, rollout={"onSecretChange": "Keep"})
    secret("three")
    await looks("server:1")
    assert mark() == second
