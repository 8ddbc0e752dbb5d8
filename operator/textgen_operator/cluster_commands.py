"""The commands that ask a cluster and write nothing: `textgen-operator status`, `plan` and `check`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp
import kopf

from textgen_operator.check import CheckFailed, Installation
from textgen_operator.check import check as check_installation
from textgen_operator.client import ApiError, Client, connection_info
from textgen_operator.describe import describe
from textgen_operator.kinds import PODS, SERVICES_OF_OURS
from textgen_operator.plan import describe as describe_plan
from textgen_operator.plan import make_plan
from textgen_operator.render.metadata import selector_of_all_pods
from textgen_operator.resource import ObjectMeta, TextGenerationService
from textgen_operator.yamlfile import load_service

FAILED = 1


def status(arguments: argparse.Namespace) -> int:
    """Print how a service is. Returns the exit code: 0 when there is such a service."""

    async def show(client: Client) -> int:
        namespace = arguments.namespace or connection_info().default_namespace or "default"
        service = await client.get(SERVICES_OF_OURS.path(namespace, arguments.name))
        if service is None:
            print(f"there is no {SERVICES_OF_OURS.name} {arguments.name} in namespace {namespace}", file=sys.stderr)
            return FAILED
        selector = selector_of_all_pods(ObjectMeta.model_validate(service["metadata"]))
        pods = await client.items(PODS.path(namespace), selector)
        print(describe(service, pods, datetime.now(UTC)), end="")
        return 0

    return with_cluster(show)


def plan(arguments: argparse.Namespace) -> int:
    """Print what applying a service would change. Returns the exit code: 1 when something stands in its way."""
    service = load_service(arguments.file, arguments.name)

    async def show(client: Client) -> int:
        found = await make_plan(client, _placed(service, arguments.namespace), arguments.server_image)
        print(describe_plan(found), end="")
        return FAILED if found.is_blocked else 0

    return with_cluster(show)


def check(arguments: argparse.Namespace) -> int:
    """Print what is well with an installation, or what is not. Returns the exit code."""
    installation = Installation(arguments.operator_url.rstrip("/"), arguments.namespace)

    async def show(client: Client) -> int:
        try:
            said = await check_installation(client, installation, arguments.wait)
        except CheckFailed as failed:
            print(f"failed: {failed}", file=sys.stderr)
            return FAILED
        print("".join(f"ok: {sentence}\n" for sentence in said), end="")
        return 0

    return with_cluster(show)


def _placed(service: TextGenerationService, namespace: str | None) -> TextGenerationService:
    """The service in the namespace where kubectl would put it."""
    if namespace is None and "namespace" not in service.metadata.model_fields_set:
        namespace = connection_info().default_namespace
    update = {"namespace": namespace} if namespace else {}
    return service.model_copy(update={"metadata": service.metadata.model_copy(update=update)})


def with_cluster(work: Callable[[Client], Awaitable[int]]) -> int:
    """Do something with the cluster of the current kubeconfig; failures are one line and exit code 1."""

    async def run() -> int:
        async with Client() as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except (kopf.LoginError, ApiError, aiohttp.ClientError, TimeoutError) as error:
        print(f"textgen-operator: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
