"""Every change of what the operator owns leads to a look at its service."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kmock import RawHandler, Response

from textgen_operator import informers
from textgen_operator.client import Client
from textgen_operator.informers import Informer, ServiceKey
from textgen_operator.kinds import PODS, Manifest
from textgen_operator.render.metadata import SELECT_OURS, SERVICE_LABEL

PATH = PODS.path("models")
CHAT, EMBED = ("models", "chat"), ("models", "embed")


def pod(uid: str, service: str = "chat", version: str = "1") -> Manifest:
    labels = {SERVICE_LABEL: service}
    return {"metadata": {"name": uid, "namespace": "models", "uid": uid, "labels": labels, "resourceVersion": version}}


def listed(*pods: Manifest) -> Manifest:
    return {"items": list(pods), "metadata": {"resourceVersion": "1"}}


def change(kind: str, item: Manifest) -> Manifest:
    return {"type": kind, "object": item}


@asynccontextmanager
async def informed(client: Client) -> AsyncIterator["asyncio.Queue[ServiceKey]"]:
    """What a running informer notifies of, in order."""
    notified: asyncio.Queue[ServiceKey] = asyncio.Queue()
    task = asyncio.create_task(Informer(client, PODS, "models", notified.put_nowait).run())
    try:
        yield notified
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(notified: "asyncio.Queue[ServiceKey]", count: int) -> list[ServiceKey]:
    async with asyncio.timeout(60):
        return sorted([await notified.get() for _ in range(count)])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informers, "PAUSE", 0.01)


def serve(kmock: RawHandler, lists: Iterable[Any], watches: list[tuple[Manifest, ...]]) -> None:
    """Answers of the API server, one after the other; a watch after the last stays open."""
    stays_open = (b"", lambda: asyncio.sleep(30))
    to_lists, to_watches = iter(lists), itertools.chain(watches, itertools.repeat(stays_open))
    kmock["get", PATH] << (lambda request: next(to_watches if "watch" in request.params else to_lists))


async def test_what_is_there_at_the_start_is_looked_at(client: Client, kmock: RawHandler) -> None:
    serve(kmock, [listed(pod("a"), pod("b"), pod("c", "embed"))], [])
    async with informed(client) as notified:
        assert await take(notified, 2) == [CHAT, EMBED]
    assert kmock[0].params["labelSelector"] == SELECT_OURS
    assert "PartialObjectMetadataList" in kmock[0].headers["Accept"]


async def test_each_change_leads_to_its_service(client: Client, kmock: RawHandler) -> None:
    events = [change("ADDED", pod("a")), change("MODIFIED", pod("a")), change("DELETED", pod("a"))]
    serve(kmock, [listed()], [(*events, change("ADDED", pod("b", "embed")))])
    async with informed(client) as notified:
        assert await take(notified, 4) == [CHAT, CHAT, CHAT, EMBED]


async def test_a_bookmark_is_no_change(client: Client, kmock: RawHandler) -> None:
    bookmark = change("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    serve(kmock, [listed()], [(bookmark, change("ADDED", pod("a")))])
    async with informed(client) as notified:
        assert await take(notified, 1) == [CHAT]
        assert notified.empty()


async def test_a_label_that_changes_leads_to_both_services(client: Client, kmock: RawHandler) -> None:
    serve(kmock, [listed(pod("a"))], [(change("MODIFIED", pod("a", "embed")),)])
    async with informed(client) as notified:
        assert await take(notified, 3) == [CHAT, CHAT, EMBED]


async def test_a_watch_goes_on_where_it_ended(client: Client, kmock: RawHandler) -> None:
    serve(kmock, [listed()], [(change("ADDED", pod("a", version="5")),), (change("ADDED", pod("b", version="6")),)])
    async with informed(client) as notified:
        await take(notified, 2)
        async with asyncio.timeout(60):
            while len(watches(kmock)) < 3:  # noqa: ASYNC110 - what is awaited happens behind HTTP
                await asyncio.sleep(0.01)
    assert watches(kmock)[:3] == ["1", "5", "6"]
    assert len(kmock) == len(watches(kmock)) + 1


def watches(kmock: RawHandler) -> list[str]:
    """Where each watch began."""
    return [request.params["resourceVersion"] for request in kmock if "watch" in request.params]


async def test_what_vanished_while_the_watch_was_down_is_noticed(client: Client, kmock: RawHandler) -> None:
    expired = (change("ERROR", {"code": 410, "message": "too old"}),)
    serve(kmock, [listed(pod("a"), pod("b", "embed")), listed(pod("b", "embed"))], [expired])
    async with informed(client) as notified:
        assert await take(notified, 2) == [CHAT, EMBED]
        assert await take(notified, 2) == [CHAT, EMBED]


@pytest.mark.parametrize("failure", [500, 403, 429])
async def test_failures_are_survived(
    client: Client, kmock: RawHandler, caplog: pytest.LogCaptureFixture, failure: int
) -> None:
    serve(kmock, [Response(status=failure), Response(status=200, payload=listed(pod("a")))], [])
    async with informed(client) as notified:
        assert await take(notified, 1) == [CHAT]
    assert f"Watch on {PATH} failed: HTTP {failure}" in caplog.text
