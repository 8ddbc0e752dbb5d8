"""Kinds that other projects bring: said when they are absent, made when they come, without a restart; and what goes."""

from cluster.definitions import served
from cluster.kube import Kube, Namespace, eventually
from cluster.operator_process import Operator
from foreign_definitions import definition

from textgen_operator.kinds import (
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
    INGRESSES,
    INTERCEPTOR_ROUTES,
    NETWORK_POLICIES,
    POD_MONITORS,
    SCALED_OBJECTS,
    SERVICES,
    SERVICES_OF_OURS,
    STATEFUL_SETS,
)


def test_a_kind_that_comes_later_is_used_without_a_restart(
    operator: Operator, kube: Kube, namespace: Namespace
) -> None:
    namespace.serve("chat", metrics={"monitor": "Enabled"})

    def said() -> None:
        found = namespace.condition("chat", "Integrated")
        assert (found["status"], found["reason"]) == ("False", "KindNotServed")

    def nothing_said() -> None:
        conditions = namespace.get(SERVICES_OF_OURS, "chat")["status"]["conditions"]
        assert "Integrated" not in {found["type"] for found in conditions}

    eventually(said)
    assert namespace.exists(STATEFUL_SETS, "chat")
    with served(kube, POD_MONITORS):
        eventually(lambda: namespace.get(POD_MONITORS, "chat"))
        eventually(nothing_said)
        # It is watched now: what somebody deletes comes back.
        first = namespace.get(POD_MONITORS, "chat")["metadata"]["uid"]
        namespace.delete(POD_MONITORS, "chat")

        def made_again() -> None:
            assert namespace.get(POD_MONITORS, "chat")["metadata"]["uid"] != first

        eventually(made_again)
    eventually(said)


def test_what_the_spec_asks_for_no_longer_goes(operator: Operator, namespace: Namespace) -> None:
    extras = (DISRUPTION_BUDGETS, AUTOSCALERS, NETWORK_POLICIES, INGRESSES)
    network = {"ingress": {}, "policy": {"enabled": True}}
    namespace.serve("chat", replicas=2, autoscaling={"maxReplicas": 3}, network=network)
    for kind in extras:
        eventually(lambda kind=kind: namespace.get(kind, "chat"))
    budget = namespace.get(DISRUPTION_BUDGETS, "chat")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"replicas": 1, "autoscaling": None, "network": None}})

    def gone() -> None:
        assert [kind.name for kind in extras if namespace.exists(kind, "chat")] == []

    eventually(gone)
    assert namespace.exists(STATEFUL_SETS, "chat")


def test_the_scaler_scales_the_resource_and_the_operator_the_pods(operator: Operator, namespace: Namespace) -> None:
    namespace.serve("chat", autoscaling={"maxReplicas": 3})
    eventually(lambda: namespace.get(AUTOSCALERS, "chat"))
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"replicas": 3}}, "scale")

    def scaled() -> None:
        assert namespace.get(STATEFUL_SETS, "chat")["spec"]["replicas"] == 3

    eventually(scaled)
    assert namespace.get(SERVICES_OF_OURS, "chat")["spec"]["replicas"] == 3


def test_the_number_of_pods_is_left_to_somebody_elses_scaler_of_the_statefulset(
    operator: Operator, kube: Kube, namespace: Namespace
) -> None:
    namespace.serve("chat")
    eventually(lambda: namespace.stands("chat"))
    target = {"apiVersion": STATEFUL_SETS.api_version, "kind": STATEFUL_SETS.name, "name": "chat"}
    theirs = {"metadata": {"name": "theirs"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5}}
    kube.post(AUTOSCALERS.path(namespace.name), theirs)

    def told() -> None:
        found = namespace.condition("chat", "ScalingActive")
        assert (found["status"], found["reason"]) == ("False", "ForeignScaler")
        assert "HorizontalPodAutoscaler theirs" in found["message"]

    # A look that began before the scaler was there knows nothing of it, and would put the number back.
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"disruption": {"maxUnavailable": 2}}})
    eventually(told)
    namespace.edit(STATEFUL_SETS, "chat", {"spec": {"replicas": 3}}, "scale")
    namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"disruption": {"maxUnavailable": 3}}})
    eventually(told)
    assert namespace.get(STATEFUL_SETS, "chat")["spec"]["replicas"] == 3


def test_one_scaler_gives_way_to_the_other(operator: Operator, kube: Kube, namespace: Namespace) -> None:
    with served(kube, SCALED_OBJECTS):
        namespace.serve("chat", autoscaling={"maxReplicas": 3})
        eventually(lambda: namespace.get(AUTOSCALERS, "chat"))
        keda = {"engine": "KEDA", "maxReplicas": 3, "prometheus": {"address": "http://prometheus"}}
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"autoscaling": keda}})
        eventually(lambda: namespace.get(SCALED_OBJECTS, "chat"))
        assert not namespace.exists(AUTOSCALERS, "chat")
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"autoscaling": {"engine": "HPA", "prometheus": None}}})
        eventually(lambda: namespace.get(AUTOSCALERS, "chat"))
        assert not namespace.exists(SCALED_OBJECTS, "chat")


def test_where_requests_can_be_held_they_are_and_what_that_takes_goes_again(
    operator: Operator, kube: Kube, namespace: Namespace
) -> None:
    def gone() -> None:
        assert not namespace.exists(INTERCEPTOR_ROUTES, "chat")
        assert not namespace.exists(SERVICES, "chat-interceptor")

    prometheus = {"address": "http://prometheus"}
    scaling = {"engine": "KEDA", "minReplicas": 0, "maxReplicas": 1, "prometheus": prometheus}
    with served(kube, INTERCEPTOR_ROUTES, definition("interceptorroutes")):
        namespace.serve("chat", autoscaling=scaling, network={"ingress": {"hostname": "chat.example.com"}})
        eventually(lambda: namespace.get(INTERCEPTOR_ROUTES, "chat"))
        eventually(lambda: namespace.get(SERVICES, "chat-interceptor"))
        namespace.edit(SERVICES_OF_OURS, "chat", {"spec": {"autoscaling": {"minReplicas": 1}}})
        eventually(gone)
        assert namespace.exists(SERVICES, "chat")
