"""Ways into the cluster: an HTTPRoute, an Ingress, and a pool for gateways that choose a pod by its load."""

from collections.abc import Set
from typing import Any

from textgen_operator.kinds import INFERENCE_POOLS, INGRESSES, ROUTES, Kind, Manifest
from textgen_operator.render import interception
from textgen_operator.render.metadata import object_meta, selector
from textgen_operator.render.service import PORT_NAME, SERVER_PORT, client_port
from textgen_operator.resource import TextGenerationService
from textgen_operator.resource.network import InferencePool, Ingress, Route


def render(service: TextGenerationService, served: Set[Kind] = frozenset()) -> list[Manifest]:
    """Those that the spec asks for."""
    network = service.spec.network
    found = []
    if network.inference_pool is not None:
        found.append(_pool(service, network.inference_pool))
    if network.route is not None:
        found.append(_route(service, network.route, served))
    if network.ingress is not None:
        found.append(_ingress(service, network.ingress, served))
    return found


def _object(kind: Kind, service: TextGenerationService, spec: dict[str, Any], notes: dict[str, str]) -> Manifest:
    meta = object_meta(service.metadata, service.metadata.name) | ({"annotations": notes} if notes else {})
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta, "spec": spec}


def _route(service: TextGenerationService, route: Route, served: Set[Kind]) -> Manifest:
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [interception.route_backend(service, served) or _backend(service)],
        # An answer may take as long as it takes: 0 is no limit.
        "timeouts": {"request": "0s", "backendRequest": "0s"},
    }
    spec: dict[str, Any] = {
        "parentRefs": [parent.model_dump(by_alias=True, exclude_none=True) for parent in route.parent_refs],
        "rules": [rule],
    }
    return _object(
        ROUTES, service, spec | ({"hostnames": route.hostnames} if route.hostnames else {}), route.annotations
    )


def _backend(service: TextGenerationService) -> Manifest:
    """What the route leads to: the pool, where there is one, else the Service."""
    name = service.metadata.name
    if service.spec.network.inference_pool is not None:
        return {"group": INFERENCE_POOLS.group, "kind": INFERENCE_POOLS.name, "name": name}
    return {"name": name, "port": client_port(service.spec)}


def _ingress(service: TextGenerationService, ingress: Ingress, served: Set[Kind]) -> Manifest:
    ours = {"name": service.metadata.name, "port": {"name": PORT_NAME}}
    backend = {"service": interception.ingress_backend(service, served) or ours}
    rule: dict[str, Any] = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    hosts = [ingress.hostname] if ingress.hostname else []
    spec: dict[str, Any] = {"rules": [rule | ({"host": ingress.hostname} if hosts else {})]}
    if ingress.class_name:
        spec["ingressClassName"] = ingress.class_name
    if ingress.tls_secret_name:
        spec["tls"] = [{"secretName": ingress.tls_secret_name} | ({"hosts": hosts} if hosts else {})]
    return _object(INGRESSES, service, spec, ingress.annotations)


def _pool(service: TextGenerationService, pool: InferencePool) -> Manifest:
    picker = pool.endpoint_picker or f"{service.metadata.name}-epp"
    spec = {
        "selector": {"matchLabels": selector(service.metadata)},
        "targetPorts": [{"number": SERVER_PORT}],
        "endpointPickerRef": {"name": picker, "port": {"number": pool.endpoint_picker_port}},
    }
    return _object(INFERENCE_POOLS, service, spec, {})
