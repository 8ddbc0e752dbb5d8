"""What servers say in their logs, against an emulated API server."""

import json
from typing import Any

import pytest
from kmock import KubernetesEmulator

from textgen_operator.client import Client
from textgen_operator.kinds import Manifest
from textgen_operator.pod_logs import SECONDS_BETWEEN_READS, PodLogs
from textgen_operator.resource import ObjectMeta
from textgen_server.weights.progress import report

CHAT = ObjectMeta(name="chat", namespace="models", uid="uid")
LOG = ("get", "/api/v1/namespaces/models/pods/chat-0/log")


def line(second: int, **progress: Any) -> str:
    """A line of a server's log as the API server gives it, with its time."""
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}.5Z {json.dumps({'message': 'x', 'progress': progress})}\n"


def downloading(second: int, done: int) -> str:
    return line(second, **report("downloading", "org/model", done, 1000, 10.0).fields)


LOCATED = line(90, stage="located", what="org/model", revision="abc123", done_bytes=1000, total_bytes=1000)
LOADED = line(100, **report("loading", "llama", 1000, 1000, 100.0).fields)
NOISE = '2026-01-01T00:00:00Z not JSON\n2026-01-01T00:00:00Z {"progress": 7}\n2026-01-01T00:00:00Z [1]\n\n'


def pod(*, ready: bool, restarts: int = 0, name: str = "chat-0") -> Manifest:
    state = {"running": {"startedAt": "2026-01-01T00:00:30Z"}}
    server = {"name": "server", "ready": ready, "started": ready, "restartCount": restarts, "state": state}
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]
    if ready:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"})
    meta = {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
    # Another container may have been put before the server's.
    statuses = [{"name": "proxy", "ready": True, "state": {"running": {"startedAt": "2026-01-01T00:00:31Z"}}}, server]
    return {"metadata": meta, "status": {"conditions": conditions, "containerStatuses": statuses}}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logs(client: Client, clock: Clock) -> PodLogs:
    return PodLogs(client, clock)


async def test_a_log_is_read_every_ten_seconds_while_the_server_loads_and_not_more_often(
    logs: PodLogs, clock: Clock, kmock: KubernetesEmulator
) -> None:
    kmock[LOG] << (NOISE + downloading(40, 100) + downloading(45, 250)).encode()
    for at in (0, 1, SECONDS_BETWEEN_READS - 0.1):
        clock.now = at
        told = await logs.read(CHAT, [pod(ready=False)], None)
        assert told.progress is not None
        assert told.progress.as_status() == {
            "stage": "Downloading", "percent": 25, "totalBytes": 1000, "bytesPerSecond": 10, "remainingSeconds": 75
        }  # fmt: skip
    assert len(list(kmock)) == 1
    clock.now = SECONDS_BETWEEN_READS
    await logs.read(CHAT, [pod(ready=False)], None)
    assert len(list(kmock)) == 2


async def test_when_the_model_is_there_loading_has_begun(logs: PodLogs, kmock: KubernetesEmulator) -> None:
    kmock[LOG] << (downloading(40, 100) + LOCATED).encode()
    told = await logs.read(CHAT, [pod(ready=False)], None)
    assert told.progress is not None
    assert told.progress.as_status() == {"stage": "Loading", "percent": 0, "totalBytes": 1000}
    assert told.located is not None
    assert (told.located.revision, told.located.total_bytes) == ("abc123", 1000)


async def test_the_time_of_a_start_is_told_stage_by_stage_and_its_log_read_once(
    logs: PodLogs, kmock: KubernetesEmulator
) -> None:
    kmock[LOG] << (NOISE + downloading(40, 100) + LOCATED + LOADED).encode()
    told = await logs.read(CHAT, [pod(ready=True)], None)
    assert told.startup == {
        "pod": "chat-0",
        "startedAt": "2026-01-01T00:00:30Z",
        "lastSeconds": 120,
        "stages": {"schedule": 5, "pull": 25, "download": 60, "load": 10, "warmup": 20},
    }
    again = await logs.read(CHAT, [pod(ready=True)], told.startup)
    assert again.startup == told.startup
    assert len(list(kmock)) == 1


async def test_of_a_restart_only_the_containers_own_time_counts(logs: PodLogs, kmock: KubernetesEmulator) -> None:
    kmock[LOG] << (LOCATED + LOADED).encode()
    told = await logs.read(CHAT, [pod(ready=True, restarts=1)], None)
    assert told.startup is not None
    assert told.startup["lastSeconds"] == 90
    assert told.startup["stages"] == {"download": 60, "load": 10, "warmup": 20}


async def test_a_log_that_cannot_be_had_costs_only_what_it_would_tell(logs: PodLogs, kmock: KubernetesEmulator) -> None:
    kmock[LOG] << 500
    told = await logs.read(CHAT, [pod(ready=False, name="chat-1"), pod(ready=True)], None)
    assert (told.progress, told.located) == (None, None)
    assert told.startup is not None
    assert told.startup["stages"] == {"schedule": 5, "pull": 25}
