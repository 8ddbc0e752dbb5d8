"""The end of a service, and names that are taken."""

from cluster.control_plane import ControlPlane
from cluster.kube import Namespace, eventually
from cluster.operator_process import Operator

from textgen_operator.kinds import PODS, SERVICES, SERVICES_OF_OURS, STATEFUL_SETS

OBJECTS = ((STATEFUL_SETS, "chat"), (SERVICES, "chat"), (SERVICES, "chat-pods"), (PODS, "chat-0"))
FOREIGN = {"metadata": {"name": "chat"}, "spec": {"ports": [{"port": 5432}]}}


def all_gone(namespace: Namespace) -> None:
    left = [f"{kind.name} {name}" for kind, name in OBJECTS if namespace.exists(kind, name)]
    assert left == []


def test_deletion_leaves_nothing(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    namespace.delete(SERVICES_OF_OURS, "chat")
    eventually(lambda: all_gone(namespace))


def test_deletion_does_not_need_the_operator(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    operator.stop()
    namespace.delete(SERVICES_OF_OURS, "chat")
    assert not namespace.exists(SERVICES_OF_OURS, "chat")
    eventually(lambda: all_gone(namespace))


def test_what_is_deleted_with_its_children_first_is_not_made_again(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    namespace.delete(SERVICES_OF_OURS, "chat", propagation="Foreground")

    def gone() -> None:
        assert not namespace.exists(SERVICES_OF_OURS, "chat")
        all_gone(namespace)

    eventually(gone)


def test_a_name_can_be_used_again_at_once(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    namespace.delete(SERVICES_OF_OURS, "chat")
    uid = namespace.serve("chat", dtype="float16")["metadata"]["uid"]

    def anew() -> None:
        assert namespace.stands("chat")["metadata"]["ownerReferences"][0]["uid"] == uid
        assert namespace.get(SERVICES, "chat")["metadata"]["ownerReferences"][0]["uid"] == uid
        assert namespace.condition("chat", "Accepted")["status"] == "True"

    eventually(anew)


def test_what_an_earlier_service_left_behind_is_adopted(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    pod = namespace.get(PODS, "chat-0")["metadata"]["uid"]
    namespace.delete(SERVICES_OF_OURS, "chat", propagation="Orphan")

    def orphaned() -> None:
        assert not namespace.exists(SERVICES_OF_OURS, "chat")
        assert "ownerReferences" not in namespace.get(STATEFUL_SETS, "chat")["metadata"]

    eventually(orphaned)
    uid = namespace.serve("chat")["metadata"]["uid"]

    def adopted() -> None:
        for kind, name in OBJECTS[:3]:
            owners = namespace.get(kind, name)["metadata"].get("ownerReferences", [])
            assert [owner["uid"] for owner in owners] == [uid]
        assert namespace.condition("chat", "Accepted")["status"] == "True"

    eventually(adopted)
    assert namespace.get(PODS, "chat-0")["metadata"]["uid"] == pod


def test_a_foreign_object_of_the_same_name_is_reported_and_untouched(
    operator: Operator, namespace: Namespace, plane: ControlPlane
) -> None:
    foreign = namespace.kube.post(SERVICES.path(namespace.name), FOREIGN)
    mark = plane.audit.mark()
    namespace.serve("chat")

    def reported() -> None:
        for kind in ("Accepted", "Ready"):
            condition = namespace.condition("chat", kind)
            assert (condition["status"], condition["reason"]) == ("False", "NameConflict")
            assert "Service chat" in condition["message"]

    eventually(reported)
    assert namespace.get(SERVICES, "chat") == foreign
    assert not namespace.exists(STATEFUL_SETS, "chat")
    assert {write.resource for write in plane.audit.writes_since(mark)} == {"textgenerationservices/status", "events"}


def test_once_the_foreign_object_is_gone_the_service_starts(operator: Operator, namespace: Namespace) -> None:
    namespace.kube.post(SERVICES.path(namespace.name), FOREIGN)
    namespace.serve("chat")
    eventually(lambda: namespace.condition("chat", "Accepted"))
    namespace.delete(SERVICES, "chat")
    eventually(lambda: namespace.stands("chat"))
