"""The commands that ask a cluster and write nothing: `textgen-operator status` and `textgen-operator plan`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp
import kopf

from textgen_operator.client import ApiError, Client, connection_info
from textgen_operator.describe import describe
from textgen_operator.kinds import PODS, SERVICES_OF_OURS
from textgen_operator.render.metadata import pod_selector
from textgen_operator.resource import ObjectMeta

FAILED = 1


def status(arguments: argparse.Namespace) -> int:
    """Print how a service is. Returns the exit code: 0 when there is such a service."""

    async def show(client: Client) -> int:
        namespace = arguments.namespace or connection_info().default_namespace or "default"
        service = await client.get(SERVICES_OF_OURS.path(namespace, arguments.name))
        if service is None:
            print(f"there is no {SERVICES_OF_OURS.name} {arguments.name} in namespace {namespace}", file=sys.stderr)
            return FAILED
        selector = pod_selector(ObjectMeta.model_validate(service["metadata"]))
        pods = await client.items(PODS.path(namespace), selector)
        print(describe(service, pods, datetime.now(UTC)), end="")
        return 0

    return with_cluster(show)


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
