"""Requests that wait for the first replica, by KEDA's HTTP add-on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreign_definitions import assert_fits
from operator_rendered import DEFAULTS
from operator_samples import custom_resource, service

from textgen_operator.kinds import INTERCEPTOR_ROUTES, ROUTES, Kind, Manifest
from textgen_operator.render import render
from textgen_operator.status import Intent, Observed, status_of

GRANT = Path(__file__).parents[2] / "examples" / "keda" / "reference-grant.yaml"
PROXY = "keda-add-ons-http-interceptor-proxy"
TO_ZERO: dict[str, Any] = {
    "engine": "KEDA",
    "minReplicas": 0,
    "maxReplicas": 2,
    "prometheus": {"address": "http://prometheus:9090"},
    "httpAddOn": {"namespace": "scaling"},
}
WAYS_IN: dict[str, Any] = {
    "ingress": {"hostname": "a.example.com"},
    "route": {"parentRefs": [{"name": "gateway"}], "hostnames": ["b.example.com", "c.example.com"]},
}


def rendered(served: tuple[Kind, ...] = (INTERCEPTOR_ROUTES,), **spec: Any) -> dict[str, Manifest]:
    asked = service(**{"autoscaling": TO_ZERO, "network": WAYS_IN} | spec)
    found = render(asked, DEFAULTS, frozenset(served))
    return {f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in found}


def backends(found: dict[str, Manifest]) -> tuple[Manifest, Manifest]:
    """Where the Ingress and the HTTPRoute lead."""
    (ingress,) = found["Ingress chat"]["spec"]["rules"]
    (route,) = found["HTTPRoute chat"]["spec"]["rules"]
    return ingress["http"]["paths"][0]["backend"]["service"], route["backendRefs"][0]


def test_the_interceptor_knows_the_service_by_its_hosts_and_waits_as_long_as_a_start_may_take() -> None:
    found = rendered(startup={"timeoutSeconds": 900})["InterceptorRoute chat"]
    assert_fits(found, "interceptorroutes")
    assert found["spec"]["target"] == {"service": "chat", "port": 80}
    (rule,) = found["spec"]["rules"]
    inside = ["chat-interceptor.models", "chat-interceptor.models.svc", "chat-interceptor.models.svc.cluster.local"]
    assert rule["hosts"] == [*inside, "b.example.com", "c.example.com", "a.example.com"]
    assert found["spec"]["timeouts"] == {"readiness": "900s", "request": "0s", "responseHeader": "0s"}


def test_every_way_in_leads_to_the_interceptor() -> None:
    found = rendered(network=WAYS_IN | {"policy": {"enabled": True}})
    ingress, route = backends(found)
    assert ingress == {"name": "chat-interceptor", "port": {"number": 8080}}
    assert route == {"name": PROXY, "namespace": "scaling", "port": 8080}
    name_for_it = found["Service chat-interceptor"]["spec"]
    assert (name_for_it["type"], name_for_it["externalName"]) == ("ExternalName", f"{PROXY}.scaling.svc")
    visitors = found["NetworkPolicy chat"]["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "scaling"}}} in visitors


def test_the_grant_among_the_examples_lets_routes_lead_there() -> None:
    grant = yaml.safe_load(GRANT.read_text())
    _, route = backends(rendered(autoscaling=TO_ZERO | {"httpAddOn": {"namespace": grant["metadata"]["namespace"]}}))
    assert grant["spec"]["to"] == [{"group": "", "kind": "Service", "name": route["name"]}]
    assert route["namespace"] == grant["metadata"]["namespace"]
    assert grant["spec"]["from"] == [{"group": ROUTES.group, "kind": ROUTES.name, "namespace": "models"}]


def test_a_request_that_waits_wakes_the_service() -> None:
    *_, wakes = rendered()["ScaledObject chat"]["spec"]["triggers"]
    assert wakes["type"] == "external-push"
    assert wakes["metadata"] == {
        "scalerAddress": "keda-add-ons-http-external-scaler.scaling:9090",
        "interceptorRoute": "chat",
    }


@pytest.mark.parametrize(
    ("served", "spec"),
    [
        ((), {}),
        ((INTERCEPTOR_ROUTES,), {"autoscaling": TO_ZERO | {"minReplicas": 1}}),
        ((INTERCEPTOR_ROUTES,), {"autoscaling": None}),
        ((INTERCEPTOR_ROUTES,), {"suspend": True}),
        ((INTERCEPTOR_ROUTES,), {"tls": {"secretName": "certificate"}}),
    ],
    ids=["no add-on", "never at zero", "no scaler", "suspended", "HTTPS"],
)
def test_without_cause_or_add_on_all_is_as_ever(served: tuple[Kind, ...], spec: dict[str, Any]) -> None:
    found = rendered(served, **spec)
    assert not {"InterceptorRoute chat", "Service chat-interceptor"} & found.keys()
    assert [backend["name"] for backend in backends(found)] == ["chat", "chat"]
    triggers = found["ScaledObject chat"]["spec"]["triggers"] if "ScaledObject chat" in found else []
    assert "external-push" not in {trigger["type"] for trigger in triggers}


def test_what_has_no_host_does_not_lead_to_the_interceptor() -> None:
    found = rendered(network={"ingress": {}, "route": {"parentRefs": [{"name": "gateway"}]}})
    assert [backend["name"] for backend in backends(found)] == ["chat", "chat"]
    assert "InterceptorRoute chat" in found


def held(served: tuple[Kind, ...] = (INTERCEPTOR_ROUTES,), route: Manifest | None = None, **spec: Any) -> str:
    """Status/Reason of the condition; empty where there is none."""
    intent = Intent(service(**{"autoscaling": TO_ZERO} | spec), "http://chat.models.svc", served=frozenset(served))
    resource = custom_resource() | {"metadata": {"name": "chat", "namespace": "models", "generation": 1}}
    status = status_of(resource, Observed(intent=intent, route=route), datetime(2026, 1, 1, tzinfo=UTC))
    assert ("http://chat-interceptor.models.svc:8080" in status["addresses"]) == (bool(served) and "tls" not in spec)
    return " ".join(
        f"{each['status']}/{each['reason']}" for each in status["conditions"] if each["type"] == "RequestsHeld"
    )


def test_the_status_says_whether_requests_are_held() -> None:
    assert held() == "True/Intercepted"
    assert held(()) == "False/AddOnMissing"
    assert held(tls={"secretName": "certificate"}) == "False/NotIntercepted"
    assert held(network={"ingress": {}}) == "False/HostnameMissing"
    unresolved = {"type": "ResolvedRefs", "status": "False", "reason": "RefNotPermitted", "message": "no grant"}
    assert held(route={"status": {"parents": [{"conditions": [unresolved]}]}}) == "False/RouteNotPermitted"
