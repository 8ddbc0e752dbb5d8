"""Objects around the pods: budgets, scalers, policies, routes and monitors."""

from typing import Any

import pytest
from operator_rendered import DEFAULTS, manifests
from operator_samples import service

from textgen_operator.kinds import POD_MONITORS, Manifest
from textgen_operator.render import render
from textgen_operator.render.metadata import selector
from textgen_server import telemetry

KEDA = {"engine": "KEDA", "maxReplicas": 6, "prometheus": {"address": "http://prometheus:9090"}}


def spec_of(name: str, **spec: Any) -> Manifest:
    return dict(manifests(**spec)[name]["spec"])


# --- disruption -------------------------------------------------------------------------------------------------------


def test_replicas_go_one_after_the_other_unless_they_do_not_serve() -> None:
    budget = spec_of("PodDisruptionBudget chat", replicas=2)
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert budget["selector"]["matchLabels"] == selector(service().metadata)
    share = {"disruption": {"maxUnavailable": "50%"}}
    assert spec_of("PodDisruptionBudget chat", replicas=4, **share)["maxUnavailable"] == "50%"


@pytest.mark.parametrize("spec", [{}, {"replicas": 0}, {"replicas": 3, "suspend": True}])
def test_a_single_replica_keeps_no_node_from_being_drained(spec: dict[str, Any]) -> None:
    assert "PodDisruptionBudget chat" not in manifests(**spec)


# --- scaling ----------------------------------------------------------------------------------------------------------


def test_scalers_scale_the_resource_itself() -> None:
    for scaling, name in (({"maxReplicas": 6}, "HorizontalPodAutoscaler chat"), (KEDA, "ScaledObject chat")):
        target = spec_of(name, autoscaling=scaling)["scaleTargetRef"]
        assert target == {"apiVersion": "textgen.dev/v1alpha1", "kind": "TextGenerationService", "name": "chat"}


def test_the_autoscaler_follows_metrics_that_the_server_has() -> None:
    scaling = {"minReplicas": 2, "maxReplicas": 6, "target": {"queuedPerReplica": 3, "runningPerReplica": 64}}
    found = spec_of("HorizontalPodAutoscaler chat", autoscaling=scaling | {"scaleDownDelaySeconds": 600})
    shares = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in found["metrics"]}
    assert shares == {telemetry.QUEUE_SIZE: "3", telemetry.BATCH_CURRENT_SIZE: "64"}
    assert (found["minReplicas"], found["maxReplicas"]) == (2, 6)
    assert found["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 600}}


def test_keda_asks_prometheus_for_the_pods_of_this_service() -> None:
    scaling = KEDA | {"minReplicas": 0, "idleAfterSeconds": 900}
    found = spec_of("ScaledObject chat", autoscaling=scaling, startup={"timeoutSeconds": 1200})
    trigger, running = found["triggers"]
    # A replica at work is not idle, even if no request waits.
    assert running["metadata"]["query"].startswith("sum(tgi_batch_current_size{")
    assert trigger["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": 'sum(tgi_queue_size{namespace="models",pod=~"chat-[0-9]+"}) or vector(0)',
        "threshold": "4",
    }
    assert (found["minReplicaCount"], found["cooldownPeriod"], found["initialCooldownPeriod"]) == (0, 900, 1200)


@pytest.mark.parametrize("scaling", [{"maxReplicas": 6}, KEDA])
def test_there_is_one_scaler_and_none_of_a_suspended_service(scaling: dict[str, Any]) -> None:
    scalers = {"HorizontalPodAutoscaler chat", "ScaledObject chat"}
    assert len(scalers & manifests(autoscaling=scaling).keys()) == 1
    assert not scalers & manifests(autoscaling=scaling, suspend=True).keys()


# --- network ----------------------------------------------------------------------------------------------------------


def egress(**spec: Any) -> list[int]:
    """Ports beside DNS that pods may reach."""
    policy = spec_of("NetworkPolicy chat", network={"policy": {"enabled": True}}, **spec)
    dns, *others = policy["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    return [port["port"] for rule in others for port in rule["ports"]]


def test_a_policy_lets_in_whom_it_names_and_else_the_namespace() -> None:
    from_ = [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}]
    found = spec_of("NetworkPolicy chat", network={"policy": {"enabled": True, "from": from_}})
    assert found["ingress"] == [{"from": from_, "ports": [{"port": "http", "protocol": "TCP"}]}]
    assert found["podSelector"]["matchLabels"] == selector(service().metadata)
    (open_,) = spec_of("NetworkPolicy chat", network={"policy": {"enabled": True}})["ingress"]
    assert open_["from"] == [{"podSelector": {}}]
    assert "NetworkPolicy chat" not in manifests()


def test_pods_reach_names_weights_and_the_collector_of_traces_only() -> None:
    assert egress() == [443]
    assert egress(huggingFace={"endpoint": "http://hub.internal:8081/x"}) == [443, 8081]
    assert egress(huggingFace={"endpoint": "http://[::1]/x"}) == [80, 443]
    assert egress(huggingFace={"offline": True}) == []
    assert egress(huggingFace={"offline": True}, tracing={"endpoint": "http://otel:4317"}) == [4317]


def test_a_route_leads_to_the_service_without_a_limit_on_time() -> None:
    route = {"parentRefs": [{"name": "gw", "namespace": "infra"}], "hostnames": ["llm.example.com"]}
    found = spec_of("HTTPRoute chat", network={"route": route, "service": {"port": 8000}})
    assert (found["parentRefs"], found["hostnames"]) == (route["parentRefs"], route["hostnames"])
    (rule,) = found["rules"]
    assert rule["backendRefs"] == [{"name": "chat", "port": 8000}]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_with_a_pool_the_route_leads_to_it() -> None:
    network = {"route": {"parentRefs": [{"name": "gw"}]}, "inferencePool": {}}
    (rule,) = spec_of("HTTPRoute chat", network=network)["rules"]
    assert rule["backendRefs"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"}]
    pool = spec_of("InferencePool chat", network=network)
    assert pool["endpointPickerRef"] == {"name": "chat-epp", "port": {"number": 9002}}
    assert pool["targetPorts"] == [{"number": 8080}]
    assert pool["selector"]["matchLabels"] == selector(service().metadata)


def test_an_ingress_leads_to_the_service() -> None:
    ingress = {"className": "nginx", "hostname": "llm.example.com", "tlsSecretName": "cert", "annotations": {"a": "b"}}
    found = manifests(network={"ingress": ingress})["Ingress chat"]
    (rule,) = found["spec"]["rules"]
    assert rule["host"] == "llm.example.com"
    assert rule["http"]["paths"][0]["backend"] == {"service": {"name": "chat", "port": {"name": "http"}}}
    assert found["spec"]["tls"] == [{"secretName": "cert", "hosts": ["llm.example.com"]}]
    assert found["metadata"]["annotations"] == {"a": "b"}
    (anywhere,) = spec_of("Ingress chat", network={"ingress": {}})["rules"]
    assert "host" not in anywhere


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "served", "made"),
    [
        ("Auto", [], False),
        ("Auto", [POD_MONITORS], True),
        ("Enabled", [], True),
        ("Disabled", [POD_MONITORS], False),
    ],
)
def test_a_monitor_is_made_where_it_is_understood_or_asked_for(monitor: str, served: list[Any], made: bool) -> None:
    rendered = render(service(metrics={"monitor": monitor}), DEFAULTS, frozenset(served))
    assert ("PodMonitor" in {manifest["kind"] for manifest in rendered}) == made


def test_the_monitor_reads_every_pod_with_the_labels_that_prometheus_wants() -> None:
    metrics = {"monitor": "Enabled", "interval": "30s", "labels": {"release": "kps", "textgen.dev/service": "x"}}
    found = manifests(metrics=metrics, tls={"secretName": "cert"})["PodMonitor chat"]
    assert found["metadata"]["labels"]["release"] == "kps"
    assert found["metadata"]["labels"]["textgen.dev/service"] == "chat"
    assert found["spec"]["selector"]["matchLabels"] == selector(service().metadata)
    (endpoint,) = found["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("http", "/metrics", "30s")
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})
