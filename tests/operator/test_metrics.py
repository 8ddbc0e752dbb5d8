"""What the operator tells Prometheus of itself."""

import asyncio
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from kmock import KubernetesEmulator
from kube_emulator import resource
from operator_samples import custom_resource

from textgen_operator import health, metrics
from textgen_operator.client import Client
from textgen_operator.kinds import AUTOSCALERS, EVENTS, PODS, SERVICES_OF_OURS
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults
from textgen_operator.workqueue import WorkQueue

BORN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def cluster(kmock: KubernetesEmulator) -> KubernetesEmulator:
    meta = {"name": "chat", "namespace": "measured", "uid": "u", "generation": 1}
    for kind in (AUTOSCALERS, EVENTS, PODS):
        kmock.objects[resource(kind), "elsewhere", "x"] = {"metadata": {"name": "x", "namespace": "elsewhere"}}
    kmock.objects[resource(SERVICES_OF_OURS), "measured", "chat"] = custom_resource() | {
        "metadata": meta | {"creationTimestamp": "2026-01-01T00:00:00Z"}
    }
    return kmock


async def scrape() -> dict[str, float]:
    """Every sample, by its name with labels."""
    async with TestServer(health.app(lambda: 0.0)) as server, aiohttp.ClientSession() as session:
        reply = await session.get(server.make_url("/metrics"))
        text = await reply.text()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_a_look_leaves_its_traces_until_the_service_is_gone(client: Client, cluster: KubernetesEmulator) -> None:
    reconciler = Reconciler(client, Defaults(), clock=lambda: BORN + timedelta(seconds=2))
    before = await scrape()
    with metrics.timed_look():
        await reconciler.reconcile("measured", "chat")
    after = await scrape()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('textgen_operator_reconciles_total{result="done"}') == 1
    assert grown('textgen_operator_writes_total{code="200",method="PATCH",resource="statefulsets"}') == 1
    status = 'textgen_operator_writes_total{code="200",method="PATCH",resource="textgenerationservices/status"}'
    assert grown(status) == 1
    assert grown("textgen_operator_seconds_to_objects_sum") == 2
    assert after['textgen_operator_service_ready{name="chat",namespace="measured"}'] == 0
    assert after['textgen_operator_service_pods{name="chat",namespace="measured",state="wanted"}'] == 1

    cluster.objects[resource(SERVICES_OF_OURS), "measured", "chat"].delete()
    await reconciler.reconcile("measured", "chat")
    assert not any("measured" in name for name in await scrape())


async def test_a_failure_is_counted_as_one() -> None:
    before = (await scrape()).get('textgen_operator_reconciles_total{result="failed"}', 0)
    with pytest.raises(TimeoutError), metrics.timed_look():
        raise TimeoutError
    assert (await scrape())['textgen_operator_reconciles_total{result="failed"}'] == before + 1


async def test_the_depth_of_the_queue_is_what_is_due() -> None:
    now = 0.0
    queue: WorkQueue[str] = WorkQueue(lambda: now)
    metrics.watch_queue(queue.depth, queue.longest_overdue)
    queue.add("soon", 5)
    queue.add("now")
    queue.add("too")
    assert await asyncio.wait_for(queue.take(), 60) == "now"
    now = 2.0
    found = await scrape()
    assert (found["textgen_operator_queue_depth"], found["textgen_operator_seconds_behind"]) == (2, 2)
