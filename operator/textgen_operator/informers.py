"""Watches on what the operator owns; each change puts the service that it belongs to into the work queue.

Own list and watch, because only this tells of objects that vanished while the watch was down, and only metadata is
asked for: the reconciler reads the objects themselves, fresh. Started by the inventory, one for each kind and
namespace.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import Kind, Manifest
from textgen_operator.render.metadata import SELECT_OURS, SERVICE_LABEL

_log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]
"""Namespace and name of a TextGenerationService."""

PAUSE = 1.0
"""Seconds, on average, before a watch that ended or broke is begun anew."""


class _Object(NamedTuple):
    """The service of an object, and the object's own name."""

    service: ServiceKey
    name: str


class Informer:
    """Lists and watches one kind in one namespace, or in all, for as long as it runs.

    Args:
        notify: called with the service of each object that appeared, changed or vanished.
    """

    def __init__(self, client: Client, kind: Kind, namespace: str | None, notify: Callable[[ServiceKey], None]) -> None:
        self._client = client
        self._path = kind.path(namespace)
        self._notify = notify
        self._objects: dict[str, _Object] = {}
        """What is known, by uid."""
        self.synced = asyncio.Event()
        """Set when the first list has been read."""

    def names(self, service: ServiceKey) -> Iterator[str]:
        """Names of the objects of a service, as far as they are known."""
        return (known.name for known in self._objects.values() if known.service == service)

    async def run(self) -> None:
        """Never returns; a failure is logged, and the watch begun anew."""
        while True:
            try:
                version = await self._list()
                while True:
                    version = await self._watch(version)
                    await asyncio.sleep(PAUSE)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                if not (isinstance(error, ApiError) and error.status == 410):
                    _log.warning("Watch on %s failed: %s", self._path, error or type(error).__name__)
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))

    async def _list(self) -> str:
        objects, version = await self._client.metadata(self._path, SELECT_OURS)
        found = {item["metadata"]["uid"]: _object(item) for item in objects}
        gone = [known for uid, known in self._objects.items() if uid not in found]
        self._objects = found
        for service in {known.service for known in (*found.values(), *gone)}:
            self._notify(service)
        self.synced.set()
        return version

    async def _watch(self, version: str) -> str:
        """Follow the changes after `version`; the version of the last one."""
        async for event in self._client.watch(self._path, SELECT_OURS, version):
            meta = event["object"]["metadata"]
            version = meta["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._changed(event["type"], event["object"])
        return version

    def _changed(self, change: str, item: Manifest) -> None:
        uid, now = item["metadata"]["uid"], _object(item)
        # The label that leads to the service may be what changed: then both its values matter.
        before = self._objects.pop(uid, now)
        if change != "DELETED":
            self._objects[uid] = now
        for affected in {before.service, now.service}:
            self._notify(affected)


def _object(item: Manifest) -> _Object:
    meta = item["metadata"]
    return _Object((meta["namespace"], meta["labels"][SERVICE_LABEL]), meta["name"])
