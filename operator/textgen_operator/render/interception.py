"""KEDA's HTTP add-on: an interceptor that holds requests while a service has no replica, and starts one for them.

The interceptor tells services apart by the host that a request names, and sends it on to the service's own Service.
What is to wait must come by it: the Ingress and the HTTPRoute lead there, and clients in the cluster have an address of
it, a Service whose name stands for the interceptor's.
"""

from collections.abc import Set

from textgen_operator.kinds import INTERCEPTOR_ROUTES, SERVICES, Kind, Manifest
from textgen_operator.render.metadata import object_meta
from textgen_operator.render.service import PORT_NAME, client_port
from textgen_operator.resource import Spec, TextGenerationService

PROXY = "keda-add-ons-http-interceptor-proxy"
PROXY_PORT = 8080
_SCALER = "keda-add-ons-http-external-scaler"
_SCALER_PORT = 9090

NEVER_MORE_REPLICAS = 1_000_000
"""Requests that no replica runs at once: a metric with this target wakes a service, and scales it no further."""


def is_wanted(spec: Spec) -> bool:
    """Whether requests should wait for a replica."""
    return spec.autoscaling is not None and spec.autoscaling.min_replicas == 0 and not spec.suspend


def obstacle(service: TextGenerationService, served: Set[Kind]) -> tuple[str, str] | None:
    """Why requests, or some of them, are not held although they should be: one word, and a sentence."""
    spec = service.spec
    if INTERCEPTOR_ROUTES not in served:
        return "AddOnMissing", f"{INTERCEPTOR_ROUTES.absence}; until then nothing starts the first replica"
    if spec.tls is not None:
        return "NotIntercepted", "The interceptor speaks HTTP to pods: leave tls out, and let the gateway have it"
    if spec.network.inference_pool is not None:
        return "NotIntercepted", "An InferencePool chooses among pods, and there are none: leave it out"
    if spec.network.ingress is not None and not spec.network.ingress.hostname:
        return "HostnameMissing", "The interceptor knows services by their hosts: set network.ingress.hostname"
    if spec.network.route is not None and not spec.network.route.hostnames:
        return "HostnameMissing", "The interceptor knows services by their hosts: set network.route.hostnames"
    return None


def _is_at_work(service: TextGenerationService, served: Set[Kind]) -> bool:
    found = obstacle(service, served)
    return is_wanted(service.spec) and (found is None or found[0] == "HostnameMissing")


def address(service: TextGenerationService, served: Set[Kind]) -> str | None:
    """Where clients in the cluster find the interceptor; None where requests are not held."""
    meta = service.metadata
    return f"http://{_name(service)}.{meta.namespace}.svc:{PROXY_PORT}" if _is_at_work(service, served) else None


def render(service: TextGenerationService, served: Set[Kind]) -> list[Manifest]:
    """What makes the interceptor known by a name of the service's, and the service by the interceptor."""
    if not _is_at_work(service, served):
        return []
    name_for_clients = {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": object_meta(service.metadata, _name(service)),
        "spec": {
            "type": "ExternalName",
            "externalName": f"{PROXY}.{_namespace(service)}.svc",
            "ports": [{"name": PORT_NAME, "port": PROXY_PORT, "protocol": "TCP"}],
        },
    }
    return [name_for_clients, _interceptor_route(service)]


def _interceptor_route(service: TextGenerationService) -> Manifest:
    spec = service.spec
    return {
        "apiVersion": INTERCEPTOR_ROUTES.api_version,
        "kind": INTERCEPTOR_ROUTES.name,
        "metadata": object_meta(service.metadata, service.metadata.name),
        "spec": {
            "target": {"service": service.metadata.name, "port": client_port(spec)},
            "rules": [{"hosts": _hosts(service)}],
            "scalingMetric": {"concurrency": {"targetValue": NEVER_MORE_REPLICAS}},
            # It waits as long as a replica may take, and an answer takes as long as it takes: 0 is no limit.
            "timeouts": {"readiness": f"{spec.startup.timeout_seconds}s", "request": "0s", "responseHeader": "0s"},
        },
    }


def triggers(service: TextGenerationService, served: Set[Kind]) -> list[Manifest]:
    """What wakes the service, for its ScaledObject."""
    if not _is_at_work(service, served):
        return []
    scaler = f"{_SCALER}.{_namespace(service)}:{_SCALER_PORT}"
    return [{"type": "external-push", "metadata": {"scalerAddress": scaler, "interceptorRoute": service.metadata.name}}]


def route_backend(service: TextGenerationService, served: Set[Kind]) -> Manifest | None:
    """What an HTTPRoute leads to; None for what it would lead to else. The other namespace must permit it, by a
    ReferenceGrant."""
    route = service.spec.network.route
    if route is None or not route.hostnames or not _is_at_work(service, served):
        return None
    return {"name": PROXY, "namespace": _namespace(service), "port": PROXY_PORT}


def ingress_backend(service: TextGenerationService, served: Set[Kind]) -> Manifest | None:
    """What an Ingress leads to; None for what it would lead to else. It cannot lead to another namespace."""
    ingress = service.spec.network.ingress
    if ingress is None or not ingress.hostname or not _is_at_work(service, served):
        return None
    return {"name": _name(service), "port": {"number": PROXY_PORT}}


def visitors(service: TextGenerationService, served: Set[Kind]) -> list[Manifest]:
    """Whom a NetworkPolicy has to let in, beside those that it names."""
    if not _is_at_work(service, served):
        return []
    return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": _namespace(service)}}}]


def _hosts(service: TextGenerationService) -> list[str]:
    """The hosts that mean this service. A name without the namespace would mean others, too."""
    network, here = service.spec.network, f"{_name(service)}.{service.metadata.namespace}"
    hosts = [here, f"{here}.svc", f"{here}.svc.cluster.local"]
    hosts += network.route.hostnames if network.route else []
    hosts += [network.ingress.hostname] if network.ingress and network.ingress.hostname else []
    return list(dict.fromkeys(hosts))


def _name(service: TextGenerationService) -> str:
    return f"{service.metadata.name}-interceptor"


def _namespace(service: TextGenerationService) -> str:
    scaling = service.spec.autoscaling
    return scaling.http_add_on.namespace if scaling else ""
