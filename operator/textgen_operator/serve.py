"""`textgen-operator serve`: wait for our kind, wait for the Lease, then lead: kopf, the informers and the workers.

The API server may be away for as long as it likes: everything tries again, with jitter. Whoever loses the Lease, to
another one or because it cannot be renewed, ends all work and waits to lead again. Called by cli.py.
"""

import asyncio
import contextlib
import logging
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import aiohttp
import kopf

from textgen_operator import (
    handlers,  # noqa: F401 - registers kopf's handlers
    health,
    metrics,
)
from textgen_operator.client import Client, connection_info
from textgen_operator.controller import Controller, Options
from textgen_operator.kinds import SERVICES_OF_OURS
from textgen_operator.leader import Lease, LeaseLost, Timing
from textgen_operator.resource import API_VERSION, GROUP

_log = logging.getLogger(__name__)

LONGEST_BACKOFF = 15.0
"""Seconds between two of kopf's attempts to reach the API server, at most."""


class EndlessBackoff:
    """Seconds between attempts: twice as many each time, with jitter. kopf ends when its own few are used up."""

    def __iter__(self) -> Iterator[float]:
        seconds = 1.0
        while True:
            yield seconds * random.uniform(0.5, 1.0)
            seconds = min(2 * seconds, LONGEST_BACKOFF)


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
    settings.networking.error_backoffs = EndlessBackoff()
    # It would kill the process minutes after the work ended, and by then it may lead again.
    settings.process.ultimate_exiting_timeout = None
    return settings


async def serve(options: Options, stop: asyncio.Event | None = None) -> None:
    """Run the operator until SIGTERM, SIGINT or `stop`.

    Raises:
        kopf.LoginError: no cluster is configured.
    """
    stop = stop or asyncio.Event()
    async with Client() as unfenced:
        lease = _lease(unfenced, options)
        async with Client(may_write=lambda: lease.is_held) as client:
            turns = _Turns(client, options)
            async with health.answered(health.app(turns.seconds_behind), options.liveness_port):
                while await _unless(stop, _begin(unfenced, lease)):
                    try:
                        await turns.lead(lease, stop)
                        break
                    except LeaseLost as lost:
                        _log.warning("%s: the work has ended; waiting to lead again", lost)


def _lease(client: Client, options: Options) -> Lease:
    namespace = connection_info().default_namespace or "default"
    identity = options.identity or f"{socket.gethostname()}_{uuid.uuid4()}"
    return Lease(client, namespace, options.lease_name, identity, Timing(options.lease_seconds))


async def _begin(client: Client, lease: Lease) -> None:
    await _wait_for_our_kind(client)
    await lease.acquire()


async def _unless(stop: asyncio.Event, waiting: Coroutine[Any, Any, None]) -> bool:
    """Wait, but not after SIGTERM, SIGINT or `stop`; whether what was waited for has come."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # kopf has its own while it runs, and leaves them behind.
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
    wanted, stopped = asyncio.create_task(waiting), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((wanted, stopped), return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            wanted.result()
        return wanted.done() and not stop.is_set()
    finally:
        wanted.cancel()
        stopped.cancel()
        await asyncio.gather(wanted, stopped, return_exceptions=True)


class _Turns:
    """This operator's turns to lead, one after the other."""

    def __init__(self, client: Client, options: Options) -> None:
        self._client = client
        self._options = options
        self._controller: Controller | None = None
        metrics.watch_queue(self.depth, self.seconds_behind)

    def depth(self) -> int:
        """Services that are due for a look; 0 while others lead."""
        return self._controller.queue.depth() if self._controller else 0

    def seconds_behind(self) -> float:
        """By how much the most belated look at a service is late; 0 while others lead."""
        return self._controller.queue.longest_overdue() if self._controller else 0.0

    async def lead(self, lease: Lease, stop: asyncio.Event) -> None:
        """Work until SIGTERM, SIGINT or `stop`, and let the next one lead. Raises LeaseLost."""
        lost: BaseException | None = None
        self._controller = Controller(self._client, self._options)
        try:
            async with _running(self._controller, lease, stop) as work:
                await kopf.operator(
                    settings=kopf_settings(),
                    memo=kopf.Memo(queue=self._controller.queue, end=work.end),
                    namespaces=self._options.namespaces,
                    clusterwide=not self._options.namespaces,
                    stop_flag=work.ended,
                )
        except* LeaseLost as group:
            lost = group.exceptions[0]
        finally:
            self._controller = None
            metrics.forget_services()
            await lease.release()
        if lost:
            raise lost


class _Work:
    """What runs beside kopf: the controller, and what keeps the Lease."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.parts: list[asyncio.Task[None]] = []

    def end(self) -> None:
        """End it, and kopf."""
        self.ended.set()
        for part in self.parts:
            part.cancel()

    async def end_at(self, stop: asyncio.Event) -> None:
        """End kopf, and by that the rest, when `stop` is set."""
        await stop.wait()
        self.ended.set()


@contextlib.asynccontextmanager
async def _running(controller: Controller, lease: Lease, stop: asyncio.Event) -> AsyncIterator[_Work]:
    """The controller runs inside, and the Lease is kept; if one fails, all is cancelled and the failure raised."""
    work = _Work()
    async with asyncio.TaskGroup() as tasks:
        work.parts = [tasks.create_task(part) for part in (lease.keep(), controller.run(), work.end_at(stop))]
        # When kopf ends, it waits for every task that began after itself, and then cancels it.
        await controller.started.wait()
        yield work
        work.end()


async def _wait_for_our_kind(client: Client) -> None:
    """kopf serves only what exists when it starts, and the chart's definition may come a moment later than we."""
    said = ""
    while problem := await _why_not_served(client):
        if problem != said:
            _log.warning(problem)
        said = problem
        await asyncio.sleep(random.uniform(1, 3))


async def _why_not_served(client: Client) -> str:
    """Why our kind is not served; empty when it is."""
    try:
        if await client.get(f"/apis/{API_VERSION}") is None:
            return f"The cluster does not know {SERVICES_OF_OURS.plural} yet: apply crds/, or install the chart"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"The API server does not answer: {error or type(error).__name__}"
    return ""
