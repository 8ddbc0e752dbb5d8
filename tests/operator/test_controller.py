"""The whole operator, kopf included, against an emulated API server."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import kopf
import pytest
from aiohttp.test_utils import TestClient, TestServer
from kmock import KubernetesEmulator
from kube_emulator import resource
from operator_samples import custom_resource

from textgen_operator import controller, informers
from textgen_operator.client import Client, connection_info
from textgen_operator.controller import Controller, Options
from textgen_operator.health import STUCK_AFTER, app
from textgen_operator.kinds import (
    EVENTS,
    LEASES,
    OPTIONAL,
    OWNED,
    PODS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Kind,
    Manifest,
)
from textgen_operator.reconcile import Reconciler
from textgen_operator.resource import API_VERSION
from textgen_operator.serve import EndlessBackoff, kopf_settings, serve

NAMESPACE = "models"
NAMESPACES = Kind("v1", "Namespace", "namespaces")
OBJECTS = ((STATEFUL_SETS, "chat"), (SERVICES, "chat"), (SERVICES, "chat-pods"))


@pytest.fixture(autouse=True)
def cluster(kmock: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch) -> KubernetesEmulator:
    """Knows the kinds; one service is there."""
    monkeypatch.setattr(informers, "PAUSE", 0.05)
    kmock.resources[resource(SERVICES_OF_OURS)] = {
        "kind": SERVICES_OF_OURS.name,
        "singular": "textgenerationservice",
        "namespaced": True,
        "verbs": ["list", "watch", "patch"],
        "shortnames": [],
        "categories": [],
        "subresources": ["status"],
    }
    for kind in ({*OWNED} - {*OPTIONAL}) | {PODS, NAMESPACES, LEASES, EVENTS}:
        kmock.resources[resource(kind)] = {"kind": kind.name, "namespaced": True, "verbs": ["list", "watch"]}
    kmock.objects[resource(SERVICES_OF_OURS), NAMESPACE, "chat"] = stored_service("chat")
    return kmock


def stored_service(name: str) -> Manifest:
    body = custom_resource(name)
    return body | {"metadata": body["metadata"] | {"uid": f"uid-of-{name}", "generation": 1, "resourceVersion": "1"}}


def exists(kmock: KubernetesEmulator, kind: Kind, name: str) -> bool:
    try:
        return not kmock.objects[resource(kind), NAMESPACE, name].deleted
    except KeyError:
        return False


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - what is awaited happens behind HTTP
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving() -> AsyncIterator[None]:
    """The operator, ended in order afterwards."""
    stop = asyncio.Event()
    task = asyncio.create_task(serve(Options(namespaces=(NAMESPACE,)), stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


async def test_a_service_stands_costs_no_further_write_and_is_kept_so(
    client: Client, cluster: KubernetesEmulator
) -> None:
    async with serving():
        await until(lambda: all(exists(cluster, *found) for found in OBJECTS))
        await until(lambda: "status" in cluster.objects[resource(SERVICES_OF_OURS), NAMESPACE, "chat"])
        before = await writes_until_rest(cluster)
        await asyncio.sleep(0.5)
        assert writes(cluster) == before
        assert {request.headers["User-Agent"] for request in before} == {"textgen-operator"}

        await send("POST", SERVICES_OF_OURS.path(NAMESPACE), stored_service("embed"))
        await until(lambda: exists(cluster, STATEFUL_SETS, "embed"))
        await send("DELETE", SERVICES.path(NAMESPACE, "chat"))
        await until(lambda: exists(cluster, SERVICES, "chat"))


def writes(cluster: KubernetesEmulator) -> list[Any]:
    return [request for request in cluster if request.method.value != "GET"]


async def writes_until_rest(cluster: KubernetesEmulator) -> list[Any]:
    """The writes so far, when half a second has brought no more."""
    async with asyncio.timeout(60):
        while True:
            before = writes(cluster)
            await asyncio.sleep(0.5)
            if writes(cluster) == before:
                return before


async def send(method: str, path: str, body: Manifest | None = None) -> None:
    """As another user of the API server."""
    async with (
        aiohttp.ClientSession(connection_info().server) as session,
        session.request(method, path, json=body) as reply,
    ):
        assert reply.ok


async def test_without_the_definition_it_waits_and_says_so(
    client: Client, kmock: KubernetesEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    kmock["get", f"/apis/{API_VERSION}"] << 404
    waiting = asyncio.create_task(serve(Options(namespaces=(NAMESPACE,))))
    await until(lambda: "does not know textgenerationservices yet: apply crds/" in caplog.text)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_without_an_api_server_it_waits_and_says_so(
    client: Client, kmock: KubernetesEmulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = kopf.ConnectionInfo(server="http://127.0.0.1:1")
    monkeypatch.setattr("textgen_operator.client.connection_info", lambda: nowhere)
    waiting = asyncio.create_task(serve(Options(namespaces=(NAMESPACE,))))
    await until(lambda: "The API server does not answer" in caplog.text)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_the_resync_looks_at_every_service(
    client: Client, cluster: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "RESYNC", 0.05)
    running = Controller(client, Options(namespaces=(NAMESPACE,)))
    task = asyncio.create_task(running.run())
    try:
        # Nobody has told of the service: kopf does not run, and it owns nothing yet.
        await until(lambda: exists(cluster, STATEFUL_SETS, "chat"))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_fault_with_one_service_is_logged_and_the_next_is_served(
    client: Client, cluster: KubernetesEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    running = Controller(client, Options(namespaces=(NAMESPACE,)))
    cluster["get", SERVICES_OF_OURS.path(NAMESPACE, "broken")] << {"metadata": {}}
    cluster["get", SERVICES_OF_OURS.path(NAMESPACE, "refused")] << 500
    for name in ("broken", "refused", "chat"):
        running.queue.add((NAMESPACE, name))
    task = asyncio.create_task(running.run())
    try:
        await until(lambda: exists(cluster, STATEFUL_SETS, "chat"))
        await until(lambda: "models/broken: unexpected error; trying again" in caplog.text)
        await until(lambda: "models/refused: HTTP 500; trying again" in caplog.text)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_being_stuck_is_not_being_alive() -> None:
    behind = 0.0
    async with TestClient(TestServer(app(lambda: behind))) as probe:
        assert (await probe.get("/healthz")).status == 200
        behind = STUCK_AFTER + 1
        assert (await probe.get("/healthz")).status == 503


def test_kopf_never_stops_trying_to_reach_the_api_server() -> None:
    settings = kopf_settings()
    assert isinstance(settings.networking.error_backoffs, EndlessBackoff)
    waits = list(itertools.islice(settings.networking.error_backoffs, 1000))
    assert all(0.5 <= seconds <= 15 for seconds in waits)
    assert sum(waits) > 3600
    # It would end the process long after kopf did, when the process may lead again.
    assert settings.process.ultimate_exiting_timeout is None


def test_kopf_writes_nothing_of_its_own() -> None:
    settings = kopf_settings()
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert settings.persistence.finalizer.startswith("textgen.dev/")


@pytest.mark.parametrize("turns", range(6))
async def test_a_worker_ends_when_it_is_told_to_also_at_the_end_of_a_look(
    client: Client, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    looks, may_end = asyncio.Event(), asyncio.Event()

    async def reconcile(self: Reconciler, namespace: str, name: str) -> None:
        looks.set()
        await may_end.wait()

    monkeypatch.setattr(Reconciler, "reconcile", reconcile)
    ours = Controller(client, Options())
    ours._inventory.looked.set()
    ours.queue.add((NAMESPACE, "chat"))
    worker = asyncio.create_task(ours._work())
    await looks.wait()
    may_end.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    worker.cancel()
    await asyncio.wait([worker], timeout=30)
    assert worker.cancelled()
