"""The commands that ask a cluster, against an emulated API server."""

import asyncio

import pytest
from kmock import KubernetesEmulator
from kube_emulator import resource
from operator_samples import custom_resource

from textgen_operator.cli import main
from textgen_operator.client import Client
from textgen_operator.kinds import PODS, SERVICES_OF_OURS


async def test_status_says_how_a_service_is(
    client: Client, kmock: KubernetesEmulator, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = {"name": "chat-0", "namespace": "models", "creationTimestamp": "2026-01-01T00:00:00Z"}
    kmock.objects[resource(PODS), "models", "chat-0"] = {"metadata": meta}
    kmock.objects[resource(SERVICES_OF_OURS), "models", "chat"] = custom_resource()
    assert await asyncio.to_thread(main, ["status", "chat", "-n", "models"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("chat in models: no operator has looked at it yet\n")
    assert "chat-0  pending" in said
    assert await asyncio.to_thread(main, ["status", "chat"]) == 1
    assert capsys.readouterr().err == "there is no TextGenerationService chat in namespace default\n"
    assert {request.method.value for request in kmock} == {"GET"}


async def test_a_refusal_is_one_line(
    client: Client, kmock: KubernetesEmulator, capsys: pytest.CaptureFixture[str]
) -> None:
    kmock["get", SERVICES_OF_OURS.path("models", "chat")] << 403 << {"kind": "Status", "message": "not allowed"}
    assert await asyncio.to_thread(main, ["status", "chat", "-n", "models"]) == 1
    assert capsys.readouterr().err == "textgen-operator: not allowed\n"
