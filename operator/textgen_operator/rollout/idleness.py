"""Whether a pod answers requests now: its own metrics say. Called by steering.py."""

import time
from collections.abc import Callable

import aiohttp

from textgen_operator.kinds import Manifest
from textgen_operator.render.service import SERVER_PORT

REQUESTS_IN_FLIGHT = "textgen_requests_in_flight"

LOOK_AGAIN = 5.0
"""Seconds between questions."""

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class Idleness:
    """Asks pods, and remembers since when each has been waited for.

    Args:
        port: where pods answer.
        clock: seconds, monotonic.
    """

    def __init__(self, port: int = SERVER_PORT, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._since: dict[str, float] = {}
        """uid of a pod -> since when it has been waited for."""

    async def may_go(self, pod: Manifest, patience: float, *, tls: bool) -> bool:
        """Whether the pod is idle, or has been waited for longer than `patience` seconds. What cannot be asked is not
        idle."""
        uid = pod["metadata"]["uid"]
        since = self._since.setdefault(uid, self._clock())
        if await self._is_idle(pod, "https" if tls else "http") or self._clock() - since >= patience:
            return True
        self._since = {key: at for key, at in self._since.items() if self._clock() - at < 2 * 86400}
        return False

    async def _is_idle(self, pod: Manifest, scheme: str) -> bool:
        address = pod.get("status", {}).get("podIP", "")
        host = f"[{address}]" if ":" in address else address
        if not host:
            return False
        try:
            # The certificate is for the service's name, and nothing secret is asked.
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(f"{scheme}://{host}:{self._port}/metrics", ssl=False) as reply,
            ):
                return reply.status == 200 and in_flight(await reply.text()) == 0
        except (aiohttp.ClientError, TimeoutError):
            return False


def in_flight(metrics: str) -> float | None:
    """Requests that a server has not yet answered, as its metrics say; None if they do not."""
    values = [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith((f"{REQUESTS_IN_FLIGHT} ", f"{REQUESTS_IN_FLIGHT}{{"))
    ]
    return sum(values) if values else None
