"""Kinds that come and go while the operator runs, and what is known of the objects of a service."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kmock import RawHandler, Response

from textgen_operator import informers, inventory
from textgen_operator.client import Client
from textgen_operator.informers import ServiceKey
from textgen_operator.inventory import Inventory
from textgen_operator.kinds import DISRUPTION_BUDGETS, POD_MONITORS, ROUTES, Kind, Manifest
from textgen_operator.render.metadata import SERVICE_LABEL

CHAT = ("models", "chat")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informers, "PAUSE", 0.01)
    monkeypatch.setattr(inventory, "PAUSE", 0.01)


def discovery(*kinds: Kind) -> Manifest:
    """What the API server says of its kinds."""
    return {
        "kind": "APIGroupDiscoveryList",
        "items": [
            {
                "metadata": {"name": kind.group},
                "versions": [
                    {"version": kind.api_version.rpartition("/")[2], "resources": [{"resource": kind.plural}]}
                ],
            }
            for kind in kinds
        ],
    }


class Server:
    """Answers of the API server about kinds, which the test changes at will, and objects of each kind."""

    def __init__(self, kmock: RawHandler) -> None:
        self.kinds: Manifest = discovery()
        self.asked: list[str] = []
        kmock["get", "/apis"] << self._answer
        for kind in (DISRUPTION_BUDGETS, POD_MONITORS, ROUTES):
            kmock["get", kind.path("models")] << self._objects

    def _answer(self, request: Any) -> Any:
        self.asked.append(request.headers.get("If-None-Match", ""))
        etag = f'"{hash(str(self.kinds))}"'
        if self.asked[-1] == etag:
            return Response(status=304)
        return Response(status=200, payload=self.kinds, headers={"ETag": etag})

    def _objects(self, request: Any) -> Any:
        if "watch" in request.params:
            return (b"", lambda: asyncio.sleep(60))
        meta = {"name": "chat", "namespace": "models", "uid": "1", "labels": {SERVICE_LABEL: "chat"}}
        return {"items": [{"metadata": meta}], "metadata": {"resourceVersion": "1"}}


@pytest.fixture
def server(kmock: RawHandler) -> Server:
    return Server(kmock)


@asynccontextmanager
async def known(client: Client) -> AsyncIterator[tuple[Inventory, "asyncio.Queue[ServiceKey]", asyncio.Event]]:
    """A running inventory, what it notifies of, and whether it asked for a look at everything."""
    notified: asyncio.Queue[ServiceKey] = asyncio.Queue()
    everything = asyncio.Event()
    found = Inventory(client, ["models"], [DISRUPTION_BUDGETS], notified.put_nowait, everything.set)
    task = asyncio.create_task(found.run())
    try:
        async with asyncio.timeout(60):
            yield found, notified, everything
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_kinds_that_every_cluster_has_are_watched_at_once(client: Client, server: Server) -> None:
    async with known(client) as (found, notified, _):
        assert await notified.get() == CHAT
        assert found.objects(CHAT) == {(DISRUPTION_BUDGETS, "chat")}
        assert found.objects(("models", "other")) == set()
        assert found.served == frozenset()


async def test_a_kind_that_appears_is_watched_and_everything_looked_at(client: Client, server: Server) -> None:
    async with known(client) as (found, notified, everything):
        await notified.get()
        server.kinds = discovery(POD_MONITORS)
        await everything.wait()
        assert found.served == {POD_MONITORS}
        assert await notified.get() == CHAT
        assert found.objects(CHAT) == {(DISRUPTION_BUDGETS, "chat"), (POD_MONITORS, "chat")}


async def test_a_kind_that_goes_is_forgotten(client: Client, server: Server) -> None:
    server.kinds = discovery(POD_MONITORS, ROUTES)
    async with known(client) as (found, notified, everything):
        await everything.wait()
        everything.clear()
        for _ in range(3):
            await notified.get()
        server.kinds = discovery(ROUTES)
        await everything.wait()
        assert found.served == {ROUTES}
        assert found.objects(CHAT) == {(DISRUPTION_BUDGETS, "chat"), (ROUTES, "chat")}


async def test_another_version_of_a_kind_is_not_ours(client: Client, server: Server) -> None:
    old = Kind("gateway.networking.k8s.io/v1alpha2", ROUTES.name, ROUTES.plural)
    server.kinds = discovery(old, POD_MONITORS)
    async with known(client) as (found, _, everything):
        await everything.wait()
        assert found.served == {POD_MONITORS}


async def test_kinds_that_did_not_change_are_not_sent_again(client: Client, server: Server) -> None:
    async with known(client):
        while len(server.asked) < 3:  # noqa: ASYNC110 - what is awaited happens behind HTTP
            await asyncio.sleep(0.01)
    assert server.asked[0] == ""
    assert len(set(server.asked[1:])) == 1
    assert server.asked[1]


async def test_a_discovery_that_fails_is_tried_again(client: Client, kmock: RawHandler) -> None:
    there = Response(status=200, payload=discovery(ROUTES))
    answers = itertools.chain([Response(status=503)], itertools.repeat(there))
    kmock["get", "/apis"] << (lambda request: next(answers))
    async with known(client) as (found, _, everything):
        assert not found.looked.is_set()
        await everything.wait()
        await found.looked.wait()
        assert found.served == {ROUTES}
