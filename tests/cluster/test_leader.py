"""Two operators and one leader, and an API server that is away."""

import signal
from collections.abc import Iterator
from functools import partial

import pytest
from cluster.control_plane import ControlPlane
from cluster.kube import Kube, Namespace, eventually
from cluster.operator_process import RELEASE, SYSTEM, Operator

from textgen_operator.kinds import LEASES, STATEFUL_SETS

LEASE_SECONDS = 6


def operator_named(name: str, plane: ControlPlane, kube: Kube) -> Operator:
    kubeconfig = plane.kubeconfig(f"operator-{name}", kube.token(SYSTEM, RELEASE), SYSTEM)
    return Operator(kubeconfig, pod=name, lease_seconds=LEASE_SECONDS)


@pytest.fixture
def two(
    no_operator: None, plane: ControlPlane, kube: Kube, request: pytest.FixtureRequest
) -> Iterator[tuple[Operator, Operator]]:
    both = operator_named("first", plane, kube), operator_named("second", plane, kube)
    yield both
    for operator in both:
        if operator.running:
            operator.kill()
        if request.session.testsfailed:
            print(operator.log_tail())


def holder(kube: Kube) -> str:
    lease = kube.get(LEASES, SYSTEM, RELEASE)
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


def leads(kube: Kube, name: str) -> None:
    assert holder(kube) == name


def test_one_leads_and_whatever_becomes_of_it_the_other_takes_over(
    two: tuple[Operator, Operator], kube: Kube, namespace: Namespace
) -> None:
    first, second = two
    first.launch()
    second.launch()
    # The one that waits is alive, too.
    first.await_alive()
    second.await_alive()
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    eventually(lambda: namespace.condition("chat", "Accepted"))
    names = {"first": first, "second": second}
    leader = holder(kube)
    other = next(name for name in names if name != leader)

    # One that is stopped for a while finds that it does not lead any more, and writes nothing. Until then it is to
    # others as one that was killed.
    made = names[leader].log().count("Created StatefulSet")
    names[leader].send(signal.SIGSTOP)
    eventually(partial(leads, kube, other))
    namespace.delete(STATEFUL_SETS, "chat")
    eventually(lambda: namespace.stands("chat"))
    names[leader].send(signal.SIGCONT)
    names[leader].await_in_log("waiting to lead again")
    assert names[leader].log().count("Created StatefulSet") == made

    # One that ends in order makes way at once.
    assert names[other].stop() == 0
    namespace.serve("embed")
    eventually(lambda: namespace.stands("embed"))
    assert holder(kube) == leader
    assert names[leader].stop() == 0
    assert holder(kube) == ""


def test_it_outlives_an_api_server_that_does_not_answer(
    two: tuple[Operator, Operator], kube: Kube, namespace: Namespace, plane: ControlPlane
) -> None:
    operator, _ = two
    operator.start()
    eventually(partial(leads, kube, "first"))
    with plane.paused():
        operator.await_in_log("waiting to lead again")
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    assert operator.running
    assert operator.stop() == 0
