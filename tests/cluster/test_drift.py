"""What was changed by hand is put back; what belongs to others is left alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import SERVICES, STATEFUL_SETS, Kind, Manifest

STATUS = "textgenerationservices/status"
MANAGED_BY = "app.kubernetes.io/managed-by"

STATEFUL_SET = (STATEFUL_SETS, "chat")
CLIENTS_SERVICE = (SERVICES, "chat")
PODS_SERVICE = (SERVICES, "chat-pods")


def pod(statefulset: Manifest) -> Manifest:
    """The pod template's spec."""
    return dict(statefulset["spec"]["template"]["spec"])


def server(statefulset: Manifest) -> Manifest:
    (container,) = pod(statefulset)["containers"]
    return dict(container)


def rename_cache(statefulset: Manifest) -> None:
    pod(statefulset)["volumes"][0]["name"] = server(statefulset)["volumeMounts"][0]["name"] = "renamed"


CHANGES: dict[str, tuple[tuple[Kind, str], Callable[[Manifest], object]]] = {
    "replicas": (STATEFUL_SET, lambda it: it["spec"].update(replicas=5)),
    "the image": (STATEFUL_SET, lambda it: pod(it)["containers"][0].update(image="other.test/image:1")),
    "an argument": (STATEFUL_SET, lambda it: server(it)["args"].append("--trust-me")),
    "the container's port": (STATEFUL_SET, lambda it: server(it)["ports"][0].update(containerPort=9090)),
    "a probe": (STATEFUL_SET, lambda it: pod(it)["containers"][0].pop("livenessProbe")),
    "the name of a volume": (STATEFUL_SET, rename_cache),
    "one container more": (
        STATEFUL_SET,
        lambda it: pod(it)["containers"].append(server(it) | {"name": "b", "ports": []}),
    ),
    "the grace period": (
        STATEFUL_SET,
        lambda it: it["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=600),
    ),
    "the label of its service": (STATEFUL_SET, lambda it: it["metadata"]["labels"].pop("textgen.dev/service")),
    "the label of its manager": (PODS_SERVICE, lambda it: it["metadata"]["labels"].update({MANAGED_BY: "me"})),
    "whom clients reach": (CLIENTS_SERVICE, lambda it: it["spec"]["selector"].update(another="label")),
    "the port for clients": (CLIENTS_SERVICE, lambda it: it["spec"]["ports"][0].update(port=81)),
    "the type of the Service": (CLIENTS_SERVICE, lambda it: it["spec"].update(type="NodePort")),
    "the owner": (CLIENTS_SERVICE, lambda it: it["metadata"].pop("ownerReferences")),
}


@pytest.fixture
def chat(operator: Operator, namespace: Namespace) -> Namespace:
    """A namespace with a service `chat` that stands."""
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    eventually(lambda: namespace.condition("chat", "Accepted"))
    return namespace


def ours(manifest: Manifest) -> tuple[Any, ...]:
    meta = manifest["metadata"]
    return manifest["spec"], meta["labels"], meta.get("ownerReferences")


@pytest.mark.parametrize(("target", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_by_hand_is_put_back(
    chat: Namespace, target: tuple[Kind, str], change: Callable[[Manifest], object]
) -> None:
    live = chat.get(*target)
    before = copy.deepcopy(ours(live))
    change(live)
    assert ours(chat.replace(*target, live)) != before

    def as_before() -> None:
        assert ours(chat.get(*target)) == before

    eventually(as_before)


@pytest.mark.parametrize(
    "target", [STATEFUL_SET, CLIENTS_SERVICE, PODS_SERVICE], ids=["StatefulSet", "clients", "pods"]
)
def test_a_deleted_object_comes_back(chat: Namespace, target: tuple[Kind, str]) -> None:
    old = chat.get(*target)["metadata"]["uid"]
    chat.delete(*target)

    def new_one_stands() -> None:
        assert chat.get(*target)["metadata"]["uid"] != old
        chat.stands("chat")

    eventually(new_one_stands)


def test_what_others_add_stays_and_costs_no_write(chat: Namespace, plane: ControlPlane) -> None:
    mark = plane.audit.mark()
    added = {"metadata": {"annotations": {"cloud.test/address": "10.1.1.1"}, "labels": {"team": "ml"}}}
    chat.edit(*CLIENTS_SERVICE, added)
    chat.edit(*STATEFUL_SET, added)
    # Of two changes in a row the operator looks at the second at the latest; when this is undone, it has.
    chat.edit(*STATEFUL_SET, {"spec": {"replicas": 5}})

    def put_back() -> None:
        assert chat.get(*STATEFUL_SET)["spec"]["replicas"] == 1

    eventually(put_back)
    for target in (STATEFUL_SET, CLIENTS_SERVICE):
        meta = chat.get(*target)["metadata"]
        assert (meta["annotations"]["cloud.test/address"], meta["labels"]["team"]) == ("10.1.1.1", "ml")
    written = [write.resource for write in plane.audit.writes_since(mark) if write.resource not in (STATUS, "events")]
    assert written == ["statefulsets"]
