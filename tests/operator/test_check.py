"""Whether an installation works, against an emulated API server and operator."""

import copy
from typing import Any

import pytest
from aiohttp import web
from kmock import KubernetesEmulator
from ports import free_port

from textgen_operator import check as check_module
from textgen_operator.check import CheckFailed, Installation, check
from textgen_operator.client import Client
from textgen_operator.crd import custom_resource_definition
from textgen_operator.health import STUCK_AFTER, answered, app
from textgen_operator.kinds import SERVICES_OF_OURS
from textgen_operator.resource import API_VERSION

OPENAPI = f"/openapi/v3/apis/{API_VERSION}"


def published() -> dict[str, Any]:
    """The API server's description of our kind."""
    (version,) = custom_resource_definition()["spec"]["versions"]
    kind = {"group": "textgen.dev", "version": "v1alpha1", "kind": "TextGenerationService"}
    schema = copy.deepcopy(version["schema"]["openAPIV3Schema"]) | {"x-kubernetes-group-version-kind": [kind]}
    return {"components": {"schemas": {"dev.textgen.v1alpha1.TextGenerationService": schema, "other": {}}}}


def serve(kmock: KubernetesEmulator, description: dict[str, Any]) -> None:
    kmock["get", OPENAPI] << description
    kmock["get", SERVICES_OF_OURS.path()] << {"items": []}


async def test_what_is_well_is_said(client: Client, kmock: KubernetesEmulator) -> None:
    serve(kmock, published())
    port = free_port()
    async with answered(app(lambda: 0.0), port):
        said = await check(client, Installation(f"http://127.0.0.1:{port}", []), 0)
    assert said == [
        "the cluster serves TextGenerationService (textgen.dev/v1alpha1) with every field",
        "the operator's account reads the services in all namespaces: 0",
        f'the operator at http://127.0.0.1:{port} is well: {{"seconds_behind": 0.0}}',
    ]


async def test_a_definition_that_is_not_there_is_missed(client: Client, kmock: KubernetesEmulator) -> None:
    kmock["get", OPENAPI] << 404
    with pytest.raises(CheckFailed, match=r"does not serve TextGenerationService .*: apply crds/"):
        await check(client, Installation("", []), 0)


async def test_fields_that_the_definition_lacks_are_named(client: Client, kmock: KubernetesEmulator) -> None:
    older = published()
    (schema, _) = older["components"]["schemas"].values()
    spec = schema["properties"]["spec"]["properties"]
    del spec["drain"], spec["gpu"]["properties"]["count"], spec["adapters"]["items"]["properties"]["source"]
    serve(kmock, older)
    with pytest.raises(CheckFailed, match=r"lacks spec.adapters\[\].source, spec.gpu.count, spec.drain; apply crds/"):
        await check(client, Installation("", []), 0)


async def test_a_right_that_is_missing_is_quoted(client: Client, kmock: KubernetesEmulator) -> None:
    serve(kmock, published())
    kmock["get", SERVICES_OF_OURS.path("models")] << 403 << {"kind": "Status", "message": "not allowed"}
    with pytest.raises(CheckFailed, match="cannot read services in namespace models: not allowed"):
        await check(client, Installation("", ["models"]), 0)


async def test_an_operator_that_is_behind_or_away_fails(client: Client, kmock: KubernetesEmulator) -> None:
    serve(kmock, published())
    port = free_port()
    installation = Installation(f"http://127.0.0.1:{port}", [])
    with pytest.raises(CheckFailed, match=f"no operator answers at http://127.0.0.1:{port}"):
        await check(client, installation, 0)
    async with answered(app(lambda: 2 * STUCK_AFTER), port):
        with pytest.raises(CheckFailed, match=r"is behind with its work: .*600"):
            await check(client, installation, 0)


async def test_it_waits_for_what_comes_up(
    client: Client, kmock: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "SECONDS_BETWEEN", 0.01)
    serve(kmock, published())
    asked = 0

    async def healthz(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503 if asked == 1 else 200)

    routes = web.Application()
    routes.router.add_get("/healthz", healthz)
    port = free_port()
    async with answered(routes, port):
        await check(client, Installation(f"http://127.0.0.1:{port}", []), 60)
    assert asked == 2
