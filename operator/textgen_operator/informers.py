"""Watches on what the operator owns; each change puts the service that it belongs to into the work queue.

Own list and watch, because only this tells of objects that vanished while the watch was down, and only metadata is
asked for: the reconciler reads the objects themselves, fresh. Started by the controller, one for each kind and
namespace.
"""

import asyncio
import logging
import random
from collections.abc import Callable

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import Kind, Manifest
from textgen_operator.render.metadata import SELECT_OURS, SERVICE_LABEL

_log = logging.getLogger(__name__)

ServiceKey = tuple[str, str]
"""Namespace and name of a TextGenerationService."""

PAUSE = 1.0
"""Seconds, on average, before a watch that ended or broke is begun anew."""


class Informer:
    """Lists and watches one kind in one namespace, or in all, for as long as it runs.

    Args:
        notify: called with the service of each object that appeared, changed or vanished.
    """

    def __init__(self, client: Client, kind: Kind, namespace: str | None, notify: Callable[[ServiceKey], None]) -> None:
        self._client = client
        self._path = kind.path(namespace)
        self._notify = notify
        self._owners: dict[str, ServiceKey] = {}
        """uid of each known object -> its service."""
        self.synced = asyncio.Event()
        """Set when the first list has been read."""

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
        found = {item["metadata"]["uid"]: _service_of(item) for item in objects}
        gone = [owner for uid, owner in self._owners.items() if uid not in found]
        self._owners = found
        for owner in {*found.values(), *gone}:
            self._notify(owner)
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
        uid = item["metadata"]["uid"]
        # The label that leads to the service may be what changed: then both its values matter.
        owner = _service_of(item)
        for affected in {self._owners.pop(uid, owner), owner}:
            self._notify(affected)
        if change != "DELETED":
            self._owners[uid] = owner


def _service_of(item: Manifest) -> ServiceKey:
    meta = item["metadata"]
    return meta["namespace"], meta["labels"][SERVICE_LABEL]
