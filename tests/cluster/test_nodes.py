"""Services whose replicas are groups of pods on several nodes. LeaderWorkerSet's controller is played by the tests."""

import copy
from typing import Any

import pytest
from cluster.definitions import served
from cluster.kube import Kube, Namespace, Refused, eventually
from cluster.operator_process import Operator
from foreign_definitions import definition

from textgen_operator.kinds import (
    LEADER_WORKER_SETS,
    PODS,
    SECRETS,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
    Manifest,
)
from textgen_operator.workloads import workload_of

LWS = "leaderworkerset.sigs.k8s.io"


def status_of(namespace: Namespace, name: str, condition: str) -> tuple[str, str]:
    found = namespace.condition(name, condition)
    return found["status"], found["reason"]


def play_leaderworkerset(namespace: Namespace, name: str) -> None:
    """Make what its controller makes of one group: a StatefulSet of the leaders, of the same name, and one of the
    leader's followers, whose pods the cluster's own controller then makes."""
    found = namespace.get(LEADER_WORKER_SETS, name)
    leader, follower = workload_of(found).templates(found)
    owner = {"apiVersion": LEADER_WORKER_SETS.api_version, "kind": LEADER_WORKER_SETS.name, "name": name}
    owner |= {"uid": found["metadata"]["uid"], "controller": True}
    for set_name, template, first in ((name, leader, 0), (f"{name}-0", follower, 1)):
        template = copy.deepcopy(template)
        own = {f"{LWS}/name": name, f"{LWS}/group-index": "0", f"{LWS}/worker-index": str(first)}
        template["metadata"]["labels"] |= own
        body: Manifest = {
            "metadata": {"name": set_name, "ownerReferences": [owner]},
            "spec": {
                "replicas": 1,
                "ordinals": {"start": first},
                "serviceName": set_name,
                "selector": {"matchLabels": own},
                "template": template,
            },
        }
        namespace.kube.post(STATEFUL_SETS.path(namespace.name), body)


def test_a_replica_on_two_nodes_is_ready_when_both_of_its_pods_are(
    operator: Operator, kube: Kube, namespace: Namespace
) -> None:
    namespace.serve("chat", nodes=2)

    def refused() -> None:
        assert status_of(namespace, "chat", "Accepted") == ("False", "UnsupportedCluster")
        assert "install LeaderWorkerSet" in namespace.condition("chat", "Accepted")["message"]

    eventually(refused)
    with served(kube, LEADER_WORKER_SETS, definition("leaderworkersets")):
        eventually(lambda: namespace.get(LEADER_WORKER_SETS, "chat"))
        secret = namespace.get(SECRETS, "chat-nodes")
        play_leaderworkerset(namespace, "chat")

        def grouped() -> list[Manifest]:
            found = namespace.list(PODS, "chat")
            assert sorted(pod["metadata"]["name"] for pod in found) == ["chat-0", "chat-0-1"]
            return found

        leader, follower = sorted(eventually(grouped), key=lambda pod: pod["metadata"]["name"])
        namespace.report(leader, ready=True)
        namespace.report(follower, ready=False)

        def half() -> None:
            assert namespace.get(SERVICES_OF_OURS, "chat")["status"]["replicas"] == 1
            assert "chat-0-1" in namespace.condition("chat", "Ready")["message"]

        eventually(half)
        namespace.report(follower, ready=True)

        def ready() -> Manifest:
            assert status_of(namespace, "chat", "Ready") == ("True", "Ready")
            return namespace.get(SERVICES_OF_OURS, "chat")["status"]

        status = eventually(ready)
        assert (status["replicas"], status["readyReplicas"], status["shards"]) == (1, 1, 2)
        version = namespace.get(LEADER_WORKER_SETS, "chat")["metadata"]["resourceVersion"]
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"disruption": {"maxUnavailable": 2}}})
        eventually(ready)
        assert namespace.get(LEADER_WORKER_SETS, "chat")["metadata"]["resourceVersion"] == version
        assert namespace.get(SECRETS, "chat-nodes") == secret


@pytest.mark.usefixtures("no_operator")
def test_the_api_server_refuses_what_does_not_go_together_with_nodes(namespace: Namespace) -> None:
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"cache": {"type": "PerReplica"}}, "claims of followers"),
        ({"cache": {"type": "Shared", "accessModes": ["ReadWriteOnce"]}}, "ReadWriteMany"),
        ({"kserve": {"publish": "InferenceService"}}, "one pod for each"),
        ({"rollout": {"waitForIdleSeconds": 5}}, "neither strategy OnDelete nor waitForIdleSeconds"),
    )
    for spec, words in refusals:
        with pytest.raises(Refused, match=words):
            namespace.serve("chat", nodes=2, **spec)
