"""`textgen-operator serve`: kopf, the informers and the workers in one process.

kopf's watch on TextGenerationServices ─┐
informers on what they own ─────────────┼─► work queue ─► workers ─► Reconciler
resync every few minutes ───────────────┘
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import kopf

from textgen_operator import handlers  # noqa: F401 - registers kopf's handlers
from textgen_operator.client import ApiError, Client
from textgen_operator.informers import Informer, ServiceKey
from textgen_operator.kinds import OWNED, PODS, SERVICES_OF_OURS
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults
from textgen_operator.resource import API_VERSION, GROUP
from textgen_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

RESYNC = 300.0
"""Seconds after which every service is looked at again, in case something was missed."""

LONGEST_LOOK = 120.0
"""Seconds after which one look at one service is given up, and tried again."""


@dataclass(frozen=True)
class Options:
    """Options of the controller.

    Attributes:
        namespaces: where it works; empty for the whole cluster.
        defaults: what the installation decides.
        workers: services that are looked at simultaneously.
        liveness_port: port of GET /healthz on all addresses; 0 for none.
    """

    namespaces: tuple[str, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    workers: int = 8
    liveness_port: int = 0


class Controller:
    """The work queue, with those who fill it beside kopf, and those who empty it."""

    def __init__(self, client: Client, options: Options) -> None:
        self.queue: WorkQueue[ServiceKey] = WorkQueue()
        self.started = asyncio.Event()
        self._reconciler = Reconciler(client, options.defaults)
        self._workers = options.workers
        self._client = client
        self._scopes: Sequence[str | None] = options.namespaces or (None,)
        self._informers = [
            Informer(client, kind, namespace, self.queue.add) for kind in (*OWNED, PODS) for namespace in self._scopes
        ]

    async def run(self) -> None:
        """Never returns; raises when one of the parts fails for good."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())
            for _ in range(self._workers):
                tasks.create_task(self._work())
            tasks.create_task(self._resync())
            self.started.set()

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            try:
                async with asyncio.timeout(LONGEST_LOOK):
                    again = await self._reconciler.reconcile(*key)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("%s/%s: %s; trying again", *key, error or type(error).__name__)
                self.queue.retry(key)
            except Exception:
                # A fault of ours with one service must not stop the others from being served.
                _log.exception("%s/%s: unexpected error; trying again", *key)
                self.queue.retry(key)
            else:
                self.queue.succeeded(key)
                if again is not None:
                    self.queue.add(key, again)
            finally:
                self.queue.done(key)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC)
            try:
                for namespace in self._scopes:
                    services, _ = await self._client.metadata(SERVICES_OF_OURS.path(namespace), "")
                    for service in services:
                        key = (service["metadata"]["namespace"], service["metadata"]["name"])
                        self.queue.add(key, random.uniform(0, RESYNC / 2))
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("Resync failed: %s", error or type(error).__name__)


def kopf_settings() -> kopf.OperatorSettings:
    """kopf as a mere source of events: it writes nothing, and looks at nothing but our own kind."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.watching.server_timeout = 300
    settings.networking.request_timeout = 30
    return settings


async def serve(options: Options, stop: asyncio.Event | None = None) -> None:
    """Run the operator until SIGTERM, SIGINT or `stop`.

    Raises:
        kopf.LoginError: no cluster is configured.
    """
    async with Client() as client:
        await _wait_for_our_kind(client)
        controller = Controller(client, options)
        async with _running(controller):
            await kopf.operator(
                settings=kopf_settings(),
                memo=kopf.Memo(queue=controller.queue),
                namespaces=options.namespaces,
                clusterwide=not options.namespaces,
                liveness_endpoint=f"http://0.0.0.0:{options.liveness_port}/healthz" if options.liveness_port else None,
                stop_flag=stop,
            )


@contextlib.asynccontextmanager
async def _running(controller: Controller) -> AsyncIterator[None]:
    """The controller runs inside; if it fails, what is inside is cancelled and the failure raised."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(controller.run())
        # When kopf ends, it waits for every task that began after itself, and then cancels it.
        await controller.started.wait()
        yield
        task.cancel()


async def _wait_for_our_kind(client: Client) -> None:
    """kopf serves only what exists when it starts, and the chart's definition may come a moment later than we."""
    said = ""
    while problem := await _why_not_served(client):
        if problem != said:
            _log.warning(problem)
        said = problem
        await asyncio.sleep(2)


async def _why_not_served(client: Client) -> str:
    """Why our kind is not served; empty when it is."""
    try:
        if await client.get(f"/apis/{API_VERSION}") is None:
            return f"The cluster does not know {SERVICES_OF_OURS.plural} yet: apply crds/, or install the chart"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"The API server does not answer: {error or type(error).__name__}"
    return ""
