"""Who leads, on clocks that the tests set."""

import asyncio
import copy
from typing import Any

import pytest

from textgen_operator.client import ApiError, Client
from textgen_operator.kinds import Manifest
from textgen_operator.leader import Lease, LeaseLost, Timing

TIMING = Timing(duration=30)


class Leases(Client):
    """An API server that knows one Lease, and compares versions as the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Manifest | None = None
        self.away = False

    async def get(self, path: str) -> Manifest | None:
        self._answer()
        return copy.deepcopy(self.live)

    async def create(self, path: str, manifest: Manifest) -> Manifest:
        self._answer()
        if self.live is not None:
            raise ApiError(409, "AlreadyExists", "exists")
        self.live = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": "1"}}
        return copy.deepcopy(self.live)

    async def patch(self, path: str, steps: list[Manifest], field_manager: str) -> Manifest:
        self._answer()
        version, change = steps
        assert self.live is not None
        if version["value"] != self.live["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "changed meanwhile")
        self.live["metadata"]["resourceVersion"] = str(int(version["value"]) + 1)
        self.live["spec"] = change["value"]
        return copy.deepcopy(self.live)

    def _answer(self) -> None:
        if self.away:
            raise TimeoutError

    @property
    def holder(self) -> Any:
        assert self.live is not None
        return self.live["spec"]["holderIdentity"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Leases:
    return Leases()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(server: Leases, clock: Clock, who: str, timing: Timing = TIMING) -> Lease:
    return Lease(server, "system", "textgen-operator", who, timing, clock)


async def tries(lease: Lease) -> bool:
    """Whether one attempt is enough to lead."""
    return await lease._attempt()


async def test_of_two_one_leads_until_it_leaves(server: Leases, clock: Clock) -> None:
    first, second = lease(server, clock, "a"), lease(server, clock, "b")
    assert await tries(first)
    assert not await tries(second)
    assert (first.is_held, second.is_held, server.holder) == (True, False, "a")
    await first.release()
    assert (first.is_held, server.holder) == (False, "")
    assert await tries(second)
    assert server.live is not None
    assert server.live["spec"]["leaseTransitions"] == 1


async def test_whoever_was_killed_is_replaced_when_the_lease_has_run_out_and_not_before(
    server: Leases, clock: Clock
) -> None:
    killed, waiting = lease(server, clock, "a"), lease(server, clock, "b")
    assert await tries(killed)
    assert not await tries(waiting)
    clock.now += TIMING.duration - 1
    assert not await tries(waiting)
    assert not killed.is_held
    clock.now += 2
    assert await tries(waiting)
    assert server.holder == "b"


async def test_a_renewal_is_seen_by_who_waits(server: Leases, clock: Clock) -> None:
    leading, waiting = lease(server, clock, "a"), lease(server, clock, "b")
    assert await tries(leading)
    for _ in range(5):
        assert not await tries(waiting)
        clock.now += TIMING.deadline - 1
        assert await tries(leading)
        assert leading.is_held


async def test_the_next_container_of_the_same_pod_leads_on_at_once(server: Leases, clock: Clock) -> None:
    assert await tries(lease(server, clock, "a"))
    assert await tries(lease(server, clock, "a"))


async def test_two_that_are_equally_fast_do_not_both_lead(server: Leases, clock: Clock) -> None:
    many = [lease(server, clock, str(number)) for number in range(5)]
    won = await asyncio.gather(*map(tries, many))
    assert won.count(True) == 1
    assert [one.is_held for one in many] == won


async def test_who_was_replaced_is_told_by_whom(server: Leases) -> None:
    stopped = Lease(server, "system", "textgen-operator", "a", Timing(duration=6))
    assert await tries(stopped)
    assert server.live is not None
    # While its process stood still, another one led.
    server.live["spec"]["holderIdentity"] = "b"
    server.live["metadata"]["resourceVersion"] = "7"
    with pytest.raises(LeaseLost, match="b leads now"):
        await stopped.keep()
    assert not stopped.is_held


async def test_without_an_api_server_the_lease_is_lost_to_nobody(server: Leases) -> None:
    leading = Lease(server, "system", "textgen-operator", "a", Timing(duration=1))
    assert await tries(leading)
    server.away = True
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await leading.keep()
    server.away = False
    await leading.acquire()
    assert leading.is_held


async def test_a_client_writes_only_while_its_operator_leads(client: Client) -> None:
    fenced = Client(may_write=lambda: False)
    with pytest.raises(ApiError, match="does not lead") as refused:
        await fenced.apply("/api/v1/namespaces/a/services/b", {}, "me")
    assert refused.value.status == 409
