"""Of several operators only one works: the one that holds the Lease.

The rules are client-go's: who leads renews the Lease every few seconds, who waits takes it over once it has not changed
for as long as it lasts, and all writes to it are refused by the API server when somebody else was faster. Clocks of
different machines are never compared: everyone measures for himself since when the Lease has not changed. Used by
controller.py.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import LEASES, Manifest
from textgen_operator.render.metadata import FIELD_MANAGER

_log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This operator may not work any more; the message says why."""


@dataclass(frozen=True)
class Timing:
    """Times of a Lease, all in seconds.

    Attributes:
        duration: how long after its last renewal a Lease lasts, and so how long a leader that was killed is missed.
    """

    duration: int = 30

    @property
    def deadline(self) -> float:
        """After its last renewal the leader ends its own work: before anyone else begins."""
        return self.duration * 2 / 3

    @property
    def retry(self) -> float:
        """Between two attempts to renew the Lease, or to get it."""
        return self.duration / 6


class Lease:
    """One operator's claim to lead.

    Args:
        client: its own, because the one that works is fenced by this Lease.
        namespace: of the Lease.
        name: of the Lease; the same for all who compete.
        identity: differs between all who compete.
        clock: seconds that go on while the process is stopped.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._collection = LEASES.path(namespace)
        self._path = LEASES.path(namespace, name)
        self._new = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.name,
            "metadata": {"name": name, "namespace": namespace},
        }
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._live: Manifest | None = None
        """The Lease as it was last seen."""
        self._seen_at = 0.0
        """When it was first seen like that."""
        self._renewed_at: float | None = None
        """When the last attempt that succeeded was begun; None while others lead."""

    @property
    def is_held(self) -> bool:
        """Whether this operator may work: sure to be false before another one's turn begins."""
        return self._renewed_at is not None and self._clock() < self._renewed_at + self._timing.deadline

    async def acquire(self) -> None:
        """Wait until this operator leads. Whatever is in the way is logged, and tried again."""
        said = ""
        while not await self._attempt():
            in_the_way = f"Waiting: {self._holder or 'nobody yet'} leads"
            if in_the_way != said:
                _log.info(in_the_way)
            said = in_the_way
            await asyncio.sleep(self._timing.retry * random.uniform(1.0, 1.2))
        _log.info("%s leads", self._identity)

    async def keep(self) -> None:
        """Renew the Lease again and again; returns never.

        Raises:
            LeaseLost: another operator took it, or the deadline passed without a renewal.
        """
        while True:
            await asyncio.sleep(self._timing.retry)
            try:
                async with asyncio.timeout(self._seconds_left()):
                    while not await self._attempt():
                        if self._holder not in ("", self._identity):
                            raise self._lost(f"{self._holder} leads now")
                        await asyncio.sleep(self._timing.retry / 4 * random.uniform(0.5, 1.5))
            except TimeoutError:
                raise self._lost("The lease could not be renewed in time") from None

    async def release(self) -> None:
        """Let the next one lead at once. Call it when the work has ended; does nothing when the Lease is not ours."""
        if not self.is_held or self._live is None:
            return
        self._renewed_at = None
        spec = self._live["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._replace(self._live, spec)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            _log.warning("The lease was not released, and lasts %d s more: %s", self._timing.duration, error)

    @property
    def _holder(self) -> str:
        spec: Manifest = (self._live or {}).get("spec", {})
        return spec.get("holderIdentity") or ""

    def _seconds_left(self) -> float:
        assert self._renewed_at is not None
        return self._renewed_at + self._timing.deadline - self._clock()

    def _lost(self, message: str) -> LeaseLost:
        self._renewed_at = None
        return LeaseLost(message)

    async def _attempt(self) -> bool:
        """Renew the Lease, or take it if it is free; whether this operator leads now."""
        begun = self._clock()
        try:
            # A connection that swallows everything must not use up all the time there is.
            async with asyncio.timeout(2 * self._timing.retry):
                if self._renewed_at is None or self._live is None:
                    self._see(await self._client.get(self._path))
                    if not self._is_free():
                        return False
                self._see(await self._write())
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            _log.warning("Lease: %s", error or type(error).__name__)
            # Whoever was faster is seen by the next attempt.
            self._live = None if self._renewed_at is not None else self._live
            return False
        self._renewed_at = begun
        return True

    def _see(self, live: Manifest | None) -> None:
        if live is None or self._live is None or live["spec"] != self._live["spec"]:
            self._seen_at = self._clock()
        self._live = live

    def _is_free(self) -> bool:
        if self._holder in ("", self._identity):
            return True
        lasts: int = (self._live or {})["spec"].get("leaseDurationSeconds") or self._timing.duration
        return self._clock() >= self._seen_at + lasts

    async def _write(self) -> Manifest:
        """Raises ApiError, with status 409 when somebody else has written since we looked."""
        spec: dict[str, Any] = dict((self._live or {}).get("spec") or {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if self._holder != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + (1 if self._live else 0)
        spec |= {"holderIdentity": self._identity, "leaseDurationSeconds": self._timing.duration, "renewTime": now}
        if self._live is None:
            return await self._client.create(self._collection, self._new | {"spec": spec})
        return await self._replace(self._live, spec)

    async def _replace(self, live: Manifest, spec: Manifest) -> Manifest:
        steps = [
            # Of a version other than the one now there, this is a conflict.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
            {"op": "add", "path": "/spec", "value": spec},
        ]
        return await self._client.patch(self._path, steps, FIELD_MANAGER)
