"""At rest the operator writes nothing, and a restart alone is rest."""

import os
import time
from functools import partial

from cluster.control_plane import ControlPlane
from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import PODS, SERVICES

SERVICES_AT_REST = 20
QUIET_SECONDS = float(os.environ.get("TEXTGEN_QUIET_SECONDS", "15"))
"""How long silence is listened to; 60 for the full promise of a minute."""

RESTART_SECONDS = 3
"""How long silence is listened to after a restarted operator has looked at everything."""

CRASHED = {"terminated": {"exitCode": 1, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}}


def test_twenty_services_at_rest_cost_no_write(operator: Operator, namespace: Namespace, plane: ControlPlane) -> None:
    names = [f"chat-{number}" for number in range(SERVICES_AT_REST)]
    settle(namespace, names)
    mark = plane.audit.silence(2)
    time.sleep(QUIET_SECONDS)
    assert plane.audit.writes_since(mark) == []

    operator.stop()
    mark = plane.audit.mark()
    operator.start()

    def looked_at_all() -> None:
        looked_at = {request.path.rpartition("/")[2] for request in plane.audit.since(mark) if request.verb == "get"}
        assert looked_at >= set(names)

    eventually(looked_at_all)
    time.sleep(RESTART_SECONDS)
    assert plane.audit.writes_since(mark) == []


def settle(namespace: Namespace, names: list[str]) -> None:
    """Services of every kind of rest: one whose name is taken, one that crashes, one without pods, and ready ones."""
    taken, crashing, idle, *ready = names
    namespace.kube.post(SERVICES.path(namespace.name), {"metadata": {"name": taken}, "spec": {"ports": [{"port": 1}]}})
    for name in names:
        namespace.serve(name, replicas=0 if name == idle else 1)
    for name in (crashing, *ready):
        eventually(partial(namespace.stands, name))
        namespace.make_ready(name)
    (pod,) = namespace.list(PODS, crashing)
    namespace.report(pod, ready=False, state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=CRASHED)
    reasons = {
        taken: "NameConflict",
        crashing: "CrashLoopBackOff",
        idle: "ScaledToZero",
        **dict.fromkeys(ready, "Ready"),
    }
    for name, reason in reasons.items():
        eventually(partial(is_because, namespace, name, reason))


def is_because(namespace: Namespace, name: str, reason: str) -> None:
    assert namespace.condition(name, "Ready")["reason"] == reason
