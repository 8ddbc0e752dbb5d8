"""The API client: credentials, errors, watches."""

import asyncio
from pathlib import Path

import kopf
import pytest
import yaml
from kmock import RawHandler

from textgen_operator import client as client_module
from textgen_operator.client import ApiError, Client, connection_info

PODS = "/api/v1/pods"
REFUSAL = {"kind": "Status", "reason": "Invalid", "message": "spec.replicas: must be positive"}


async def test_it_identifies_itself(client: Client, kmock: RawHandler) -> None:
    kmock["get", PODS] << {"items": []}
    await client.items(PODS, "a=b")
    (request,) = kmock
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["User-Agent"] == "textgen-operator"
    assert request.params["labelSelector"] == "a=b"


async def test_what_is_not_there_is_none(client: Client, kmock: RawHandler) -> None:
    kmock["get", PODS] << 404
    assert await client.get(PODS) is None


async def test_an_empty_list_may_be_null(client: Client, kmock: RawHandler) -> None:
    kmock["get", PODS] << {"items": None, "metadata": {"resourceVersion": "7"}}
    assert await client.items(PODS, "") == []
    assert await client.metadata(PODS, "") == ([], "7")


@pytest.mark.parametrize(("status", "is_refusal"), [(422, True), (403, True), (409, False), (429, False), (500, False)])
async def test_a_refusal_keeps_the_api_servers_words(
    client: Client, kmock: RawHandler, status: int, is_refusal: bool
) -> None:
    kmock["get", PODS] << status << REFUSAL
    with pytest.raises(ApiError, match="must be positive") as caught:
        await client.get(PODS)
    error = caught.value
    assert (error.status, error.reason, error.is_refusal) == (status, "Invalid", is_refusal)


@pytest.mark.parametrize(
    "said",
    [
        "failed to create typed patch object (models/chat; apps/v1, Kind=StatefulSet): .spec.x: expected string, got 7",
        "failed to convert new object (models/chat; apps/v1, Kind=StatefulSet) to proper version: quantities must",
    ],
)
async def test_a_value_of_another_type_is_a_refusal_though_the_api_server_calls_it_an_error_of_its_own(
    client: Client, kmock: RawHandler, said: str
) -> None:
    kmock["patch", PODS] << 500 << {"kind": "Status", "message": said}
    with pytest.raises(ApiError) as caught:
        await client.apply(PODS, {}, "textgen-operator")
    assert caught.value.is_refusal


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"[]", b""])
async def test_an_answer_that_is_not_kubernetes_is_an_error_too(client: Client, kmock: RawHandler, body: bytes) -> None:
    kmock["get", PODS] << 502 << body
    with pytest.raises(ApiError) as caught:
        await client.get(PODS)
    assert caught.value.status == 502
    assert str(caught.value)


async def test_expired_credentials_are_read_anew(
    client: Client, kmock: RawHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kmock["get", PODS, {"Authorization": "Bearer secret"}] << 401
    kmock["get", PODS] << {"kind": "PodList"}
    file = tmp_path / "kubeconfig"
    config = yaml.safe_load(file.read_text())
    real = client_module.connection_info

    def rotate() -> kopf.ConnectionInfo:
        info = real()
        config["users"][0]["user"]["token"] = "fresh"
        file.write_text(yaml.safe_dump(config))
        return info

    monkeypatch.setattr(client_module, "connection_info", rotate)
    assert await client.get(PODS) == {"kind": "PodList"}
    assert [request.headers["Authorization"] for request in kmock] == ["Bearer secret", "Bearer fresh"]


async def test_credentials_that_stay_wrong_are_reported_with_what_is_understood(
    client: Client, kmock: RawHandler
) -> None:
    kmock["get", PODS] << 401
    with pytest.raises(ApiError, match="tokens, client certificates and passwords are understood"):
        await client.get(PODS)
    assert len(kmock) == 2


def test_without_a_cluster_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(kopf.LoginError, match="set KUBECONFIG, or run inside a cluster"):
        connection_info()


async def test_a_watch_gives_events_of_any_length_until_it_ends(client: Client, kmock: RawHandler) -> None:
    long = "x" * 1_000_000
    kmock["get", PODS] << (
        {"type": "ADDED", "object": {"metadata": {"name": long}}},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}},
    )
    events = [event async for event in client.watch(PODS, "a=b", "7")]
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[0]["object"]["metadata"]["name"] == long
    (request,) = kmock
    assert (request.params["resourceVersion"], request.params["labelSelector"]) == ("7", "a=b")


async def test_a_watch_that_cannot_continue_is_an_error(client: Client, kmock: RawHandler) -> None:
    kmock["get", PODS] << ({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}},)
    with pytest.raises(ApiError, match="too old") as caught:
        _ = [event async for event in client.watch(PODS, "", "7")]
    assert caught.value.status == 410


async def test_a_silent_watch_is_given_up(client: Client, kmock: RawHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WATCH_SILENCE", 0.05)
    kmock["get", PODS] << (b"", lambda: asyncio.sleep(5))
    with pytest.raises(TimeoutError):
        _ = [event async for event in client.watch(PODS, "", "7")]
