"""Services whose pods belong to an InferenceService of KServe's. KServe itself is played by the tests."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from cluster.definitions import served
from cluster.kube import Kube, Namespace, Refused, eventually
from cluster.operator_process import Operator
from cluster.test_plan import plan
from foreign_definitions import definition

from textgen_operator.kinds import INFERENCE_SERVICES, INGRESSES, PODS, SERVICES_OF_OURS, STATEFUL_SETS, Manifest
from textgen_operator.workloads import workload_of

RESOURCES = {"limits": {"cpu": "8", "memory": "64Gi"}}
PUBLISHED: dict[str, Any] = {"kserve": {"publish": "InferenceService"}, "resources": RESOURCES}


def status_of(namespace: Namespace, name: str, condition: str) -> tuple[str, str]:
    found = namespace.condition(name, condition)
    return found["status"], found["reason"]


def play_kserve(namespace: Namespace, name: str) -> None:
    """Make the pod that KServe's Deployment would make, and say what KServe says then."""
    found = namespace.get(INFERENCE_SERVICES, name)
    (template,) = workload_of(found).templates(found)
    meta = template["metadata"] | {"name": f"{name}-predictor-1"}
    namespace.kube.post(PODS.path(namespace.name), {"metadata": meta, "spec": template["spec"]})
    namespace.make_ready(name)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [ready], "url": f"http://{name}.example.com"}
    namespace.edit(INFERENCE_SERVICES, name, {"status": status}, "status")


def play_kserves_ingress(namespace: Namespace, name: str) -> None:
    """Make the Ingress that KServe makes, which has the name of the InferenceService and goes with it."""
    found = namespace.get(INFERENCE_SERVICES, name)
    owner = {key: found[key] for key in ("apiVersion", "kind")} | {"name": name, "uid": found["metadata"]["uid"]}
    labels = found["metadata"]["labels"]
    meta = {"name": name, "labels": labels, "ownerReferences": [owner | {"controller": True}]}
    backend = {"service": {"name": f"{name}-predictor", "port": {"number": 80}}}
    rules = [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    namespace.kube.post(INGRESSES.path(namespace.name), {"metadata": meta, "spec": {"rules": rules}})


def test_an_inferenceservice_takes_the_statefulsets_place_and_gives_it_back(
    operator: Operator, kube: Kube, namespace: Namespace, plane: ControlPlane, tmp_path: Path
) -> None:
    namespace.serve("chat", resources=RESOURCES)
    eventually(lambda: namespace.stands("chat"))
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"kserve": {"publish": "InferenceService"}}})

    def refused() -> None:
        assert status_of(namespace, "chat", "Accepted") == ("False", "UnsupportedCluster")

    eventually(refused)
    # What serves is not given up for what cannot be made.
    namespace.stands("chat")
    with served(kube, INFERENCE_SERVICES, definition("inferenceservices")):
        eventually(lambda: namespace.get(INFERENCE_SERVICES, "chat"))
        assert not namespace.exists(STATEFUL_SETS, "chat")

        def empty() -> None:
            assert namespace.list(PODS, "chat") == []

        eventually(empty)
        play_kserve(namespace, "chat")

        def ready() -> Manifest:
            assert status_of(namespace, "chat", "Ready") == ("True", "Ready")
            return namespace.get(SERVICES_OF_OURS, "chat")["status"]

        assert "http://chat.example.com" in eventually(ready)["addresses"]
        version = namespace.get(INFERENCE_SERVICES, "chat")["metadata"]["resourceVersion"]
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"disruption": {"maxUnavailable": 2}}})
        eventually(ready)
        assert namespace.get(INFERENCE_SERVICES, "chat")["metadata"]["resourceVersion"] == version

        _, text = plan(plane, namespace, tmp_path, resources=RESOURCES)
        assert "delete    InferenceService chat" in text
        assert "pods: 1 restart, all at once" in text
        play_kserves_ingress(namespace, "chat")
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"kserve": None, "network": {"ingress": {}}}})
        eventually(lambda: namespace.get(STATEFUL_SETS, "chat"))
        assert not namespace.exists(INFERENCE_SERVICES, "chat")
        # The garbage collector does so, too, but may take half a minute to learn of a new kind.
        with suppress(Refused):
            namespace.delete(INGRESSES, "chat")

        def ours() -> None:
            (owner,) = namespace.get(INGRESSES, "chat")["metadata"]["ownerReferences"]
            assert owner["kind"] == SERVICES_OF_OURS.name

        eventually(ours)


def test_somebody_elses_inferenceservice_is_left_alone(operator: Operator, kube: Kube, namespace: Namespace) -> None:
    with served(kube, INFERENCE_SERVICES, definition("inferenceservices")):
        kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.name}
        theirs = kind | {"metadata": {"name": "chat"}, "spec": {"predictor": {"minReplicas": 1}}}
        before = kube.post(INFERENCE_SERVICES.path(namespace.name), theirs)
        namespace.serve("chat", **PUBLISHED)

        def conflict() -> None:
            assert status_of(namespace, "chat", "Accepted") == ("False", "NameConflict")

        eventually(conflict)
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"kserve": None}})
        eventually(lambda: namespace.stands("chat"))
        assert (
            namespace.get(INFERENCE_SERVICES, "chat")["metadata"]["resourceVersion"]
            == (before["metadata"]["resourceVersion"])
        )


@pytest.mark.usefixtures("no_operator")
def test_the_api_server_refuses_what_does_not_go_together_with_kserve(namespace: Namespace) -> None:
    for spec, words in (
        ({"tls": {"secretName": "certificate"}}, "KServe reaches pods by HTTP"),
        ({"cache": {"type": "PerReplica"}}, "no volume claims"),
        ({"network": {"ingress": {}}}, "KServe makes its own"),
        ({"rollout": {"partition": 1}}, "strategy Rolling, Surge and Recreate"),
        ({"resources": {"limits": {"memory": "8Gi"}}}, "resources.limits.cpu"),
    ):
        with pytest.raises(Refused, match=words):
            namespace.serve("chat", **PUBLISHED | spec)
