"""`textgen-operator check`: whether an installation works, as `helm test` asks. Reads only. Called by cli.py."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.crd import schema_of
from textgen_operator.kinds import SERVICES_OF_OURS
from textgen_operator.resource import API_VERSION, GROUP, KIND
from textgen_operator.resource.spec import Spec

SECONDS_BETWEEN = 1.0
"""Between two looks, while something is not as it should be yet."""

_SHOWN = 5
"""Fields that are named, of those that are missing."""


class CheckFailed(Exception):
    """Something is not as it should be; the message says what, and what to do."""


@dataclass(frozen=True)
class Installation:
    """What is looked at.

    Attributes:
        url: where the operator answers; empty to leave that out.
        namespaces: in which its account must be able to read services; empty for all.
    """

    url: str
    namespaces: Sequence[str]


async def check(client: Client, installation: Installation, patience: float) -> list[str]:
    """Look until all is well; sentences that say what is.

    Args:
        client: as the operator's own account.
        installation: what is looked at.
        patience: seconds for it to come up.

    Raises:
        CheckFailed: something is still wrong then.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return [
                await _definition(client),
                *[await _rights(client, namespace) for namespace in installation.namespaces or [""]],
                *([await _operator(installation.url)] if installation.url else []),
            ]
        except CheckFailed:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(SECONDS_BETWEEN)


async def _definition(client: Client) -> str:
    """Whether the cluster serves our kind, with every field that this version knows."""
    published = await client.get(f"/openapi/v3/apis/{API_VERSION}")
    schemas = (published or {}).get("components", {}).get("schemas", {}).values()
    kind = {"group": GROUP, "version": API_VERSION.partition("/")[2], "kind": KIND}
    ours = [schema for schema in schemas if kind in schema.get("x-kubernetes-group-version-kind", [])]
    if not ours:
        raise CheckFailed(f"the cluster does not serve {KIND} ({API_VERSION}): apply crds/, or install the chart")
    missing = list(_missing(schema_of(Spec), ours[0]["properties"].get("spec", {}), "spec"))
    if missing:
        raise CheckFailed(
            f"the definition in the cluster is of another version: it lacks {', '.join(missing[:_SHOWN])}"
            f"{f' and {len(missing) - _SHOWN} more fields' if len(missing) > _SHOWN else ''}; apply crds/"
        )
    return f"the cluster serves {KIND} ({API_VERSION}) with every field"


def _missing(wanted: dict[str, Any], found: dict[str, Any], path: str) -> Iterator[str]:
    for name, schema in wanted.get("properties", {}).items():
        if name not in found.get("properties", {}):
            yield f"{path}.{name}"
        else:
            yield from _missing(schema, found["properties"][name], f"{path}.{name}")
    if "items" in wanted and "items" in found:
        yield from _missing(wanted["items"], found["items"], f"{path}[]")


async def _rights(client: Client, namespace: str) -> str:
    where = f"namespace {namespace}" if namespace else "all namespaces"
    try:
        found = await client.items(SERVICES_OF_OURS.path(namespace or None))
    except ApiError as error:
        raise CheckFailed(f"the operator's account cannot read services in {where}: {error}") from None
    return f"the operator's account reads the services in {where}: {len(found)}"


async def _operator(url: str) -> str:
    """Whether the operator gets its work done, by its own word."""
    times = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=times) as session, session.get(f"{url}/healthz") as reply:
            said = await reply.text()
            if reply.status != 200:
                raise CheckFailed(f"the operator at {url} is behind with its work: {said}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CheckFailed(f"no operator answers at {url}: {error or type(error).__name__}") from None
    return f"the operator at {url} is well: {said}"
