"""What the cluster knows and holds: which optional kinds it serves, and which objects of a service exist.

The kinds are asked for in one small request, which the API server answers with "unchanged" as long as nothing changed.
When a kind appears, its informer begins, and every service is looked at; when it goes, its informer ends. Run by the
controller; read by the reconciler.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.informers import Informer, ServiceKey
from textgen_operator.kinds import OPTIONAL, Kind, Manifest

_log = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds, on average, between two looks at the kinds."""

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Holdings(Protocol):
    """What the reconciler asks."""

    @property
    def served(self) -> Set[Kind]:
        """Optional kinds that the cluster knows now."""

    def objects(self, service: ServiceKey) -> Set[tuple[Kind, str]]:
        """Kind and name of each object of a service, as far as is known."""


@dataclass(frozen=True)
class _Nothing:
    """Of a cluster of which nothing is known."""

    served: Set[Kind] = frozenset()

    def objects(self, service: ServiceKey) -> Set[tuple[Kind, str]]:
        return frozenset()


NOTHING: Holdings = _Nothing()


class Inventory:
    """Informers on kinds that are always there, and on those that come and go.

    Args:
        scopes: namespaces to watch; None stands for all.
        kinds: those that every cluster has.
        notify: called with the service of each object that appeared, changed or vanished.
        notify_all: called when a kind appeared or vanished.
    """

    def __init__(
        self,
        client: Client,
        scopes: Sequence[str | None],
        kinds: Iterable[Kind],
        notify: Callable[[ServiceKey], None],
        notify_all: Callable[[], None],
    ) -> None:
        self._client = client
        self._scopes = scopes
        self._notify = notify
        self._notify_all = notify_all
        self._informers = {kind: self._informers_on(kind) for kind in kinds}
        self._tasks: dict[Kind, list[asyncio.Task[None]]] = {}
        self._version = ""
        self.looked = asyncio.Event()
        """Set when it is known which kinds there are: before, objects of theirs would seem to be impossible."""
        self.served: frozenset[Kind] = frozenset()
        """Optional kinds that the cluster knows now."""

    def objects(self, service: ServiceKey) -> set[tuple[Kind, str]]:
        """Kind and name of each object of a service, as far as the watches have told."""
        return {
            (kind, name)
            for kind, informers in self._informers.items()
            for informer in informers
            for name in informer.names(service)
        }

    async def run(self) -> None:
        """Never returns; failures are logged, and what failed is tried again."""
        async with asyncio.TaskGroup() as tasks:
            for informers in self._informers.values():
                for informer in informers:
                    tasks.create_task(informer.run())
            while True:
                try:
                    await self._look(tasks)
                    self.looked.set()
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    _log.warning("Discovery failed: %s", error or type(error).__name__)
                await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """See which optional kinds there are now, and begin and end informers accordingly. Raises ApiError."""
        found, self._version = await self._client.get_if_changed("/apis", _AGGREGATED, self._version)
        if found is None:
            return
        served = _served(found)
        appeared, gone = served - self.served, self.served - served
        self.served = served
        for kind in appeared:
            _log.info("The cluster serves %s now (%s)", kind.name, kind.api_version)
            self._informers[kind] = self._informers_on(kind)
            self._tasks[kind] = [tasks.create_task(informer.run()) for informer in self._informers[kind]]
        for kind in gone:
            _log.info("The cluster does not serve %s any more (%s)", kind.name, kind.api_version)
            del self._informers[kind]
            for task in self._tasks.pop(kind):
                task.cancel()
        if appeared or gone:
            self._notify_all()

    def _informers_on(self, kind: Kind) -> list[Informer]:
        return [Informer(self._client, kind, namespace, self._notify) for namespace in self._scopes]


def _served(discovery: Manifest) -> frozenset[Kind]:
    """The optional kinds in an APIGroupDiscoveryList."""
    known = {
        (f"{group['metadata']['name']}/{version['version']}", resource["resource"])
        for group in discovery.get("items", [])
        for version in group["versions"]
        for resource in version.get("resources", [])
    }
    return frozenset(kind for kind in OPTIONAL if (kind.api_version, kind.plural) in known)
