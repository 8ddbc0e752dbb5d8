"""The operator may end at any line, and what it has missed it makes good."""

from functools import partial

import pytest
from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import PODS, SERVICES, SERVICES_OF_OURS, STATEFUL_SETS

NAMES = [f"chat-{number}" for number in range(10)]


def complete(namespace: Namespace, name: str) -> None:
    namespace.stands(name)
    namespace.get(SERVICES, name)
    namespace.get(SERVICES, f"{name}-pods")
    assert namespace.condition(name, "Accepted")["status"] == "True"


@pytest.mark.parametrize("progress", [1, 5, 15])
def test_killed_in_the_middle_it_finishes_after_a_restart(
    operator: Operator, namespace: Namespace, progress: int
) -> None:
    for name in NAMES:
        namespace.serve(name)

    def some_written() -> None:
        assert len(namespace.list(STATEFUL_SETS)) + len(namespace.list(SERVICES)) >= progress

    eventually(some_written)
    operator.kill()
    operator.start()
    for name in NAMES:
        eventually(partial(complete, namespace, name))


def test_what_happened_while_it_was_away_is_made_good(operator: Operator, namespace: Namespace) -> None:
    for name in ("changed", "scaled", "robbed"):
        namespace.serve(name)
    for name in ("changed", "scaled", "robbed"):
        eventually(partial(complete, namespace, name))
    assert operator.stop() == 0
    namespace.serve("new")
    namespace.edit(SERVICES_OF_OURS, "changed", {"spec": {"dtype": "float16"}})
    namespace.edit(STATEFUL_SETS, "scaled", {"spec": {"replicas": 4}})
    namespace.delete(SERVICES, "robbed")
    operator.start()

    def made_good() -> None:
        complete(namespace, "new")
        complete(namespace, "robbed")
        (container,) = namespace.get(STATEFUL_SETS, "changed")["spec"]["template"]["spec"]["containers"]
        assert "float16" in container["args"]
        assert len(namespace.list(PODS, "scaled")) == 1

    eventually(made_good)
