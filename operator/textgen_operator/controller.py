"""The informers and the workers around the queue; serve.py runs them beside kopf, while this operator leads.

kopf's watch on TextGenerationServices ─┐
informers on what they own ─────────────┼─► work queue ─► workers ─► Reconciler
resync every few minutes ───────────────┘
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from textgen_operator import metrics
from textgen_operator.client import ApiError, Client
from textgen_operator.informers import ServiceKey
from textgen_operator.inventory import Inventory
from textgen_operator.kinds import OPTIONAL, OWNED, PODS, SERVICES_OF_OURS
from textgen_operator.reconcile import Reconciler
from textgen_operator.render import Defaults
from textgen_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

RESYNC = 300.0
"""Seconds after which every service is looked at again, in case something was missed."""

AFTER_FAILURE = 5.0
"""Seconds until a look at everything that failed is tried again."""

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
        lease_name: the Lease for which operators compete, in the namespace of the credentials.
        lease_seconds: how long a leader that was killed is missed.
        identity: who this is in the Lease: the pod's name, so that its next container leads on; by default unique.
    """

    namespaces: tuple[str, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)
    workers: int = 8
    liveness_port: int = 0
    lease_name: str = "textgen-operator"
    lease_seconds: int = 30
    identity: str = ""


class Controller:
    """The work queue, with those who fill it beside kopf, and those who empty it."""

    def __init__(self, client: Client, options: Options) -> None:
        self.queue: WorkQueue[ServiceKey] = WorkQueue()
        self.started = asyncio.Event()
        self._workers = options.workers
        self._client = client
        self._scopes: Sequence[str | None] = options.namespaces or (None,)
        self._look_at_all = asyncio.Event()
        kinds = [kind for kind in (*OWNED, PODS) if kind not in OPTIONAL]
        self._inventory = Inventory(client, self._scopes, kinds, self.queue.add, self._look_at_all.set)
        self._reconciler = Reconciler(client, options.defaults, holdings=self._inventory)

    async def run(self) -> None:
        """Never returns; raises when one of the parts fails for good."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._inventory.run())
            for _ in range(self._workers):
                tasks.create_task(self._work())
            tasks.create_task(self._resync())
            self.started.set()

    async def _work(self) -> None:
        await self._inventory.looked.wait()
        while True:
            key = await self.queue.take()
            try:
                # Not wait_for, which before Python 3.12 may swallow that this task is cancelled.
                with metrics.timed_look():
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
        """Have every service looked at, now and then; and soon, when the cluster learned of a kind."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC):
                    await self._look_at_all.wait()
            spread = 1.0 if self._look_at_all.is_set() else RESYNC / 2
            self._look_at_all.clear()
            try:
                for namespace in self._scopes:
                    services, _ = await self._client.metadata(SERVICES_OF_OURS.path(namespace), "")
                    for service in services:
                        key = (service["metadata"]["namespace"], service["metadata"]["name"])
                        self.queue.add(key, random.uniform(0, spread))
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("Resync failed: %s", error or type(error).__name__)
                self._look_at_all.set()
                await asyncio.sleep(AFTER_FAILURE)
