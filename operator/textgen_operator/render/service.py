"""The two Services: one address for clients, and one DNS name for each pod."""

from typing import Any

from textgen_operator.kinds import SERVICES, Manifest
from textgen_operator.render.metadata import object_meta, pods_service_name, selector
from textgen_operator.resource import Spec, TextGenerationService

PORT_NAME = "http"
SERVER_PORT = 8080

USUAL_PORTS = {"http": 80, "https": 443}


def scheme(spec: Spec) -> str:
    """What the server speaks: http or https."""
    return "https" if spec.tls else "http"


def client_port(spec: Spec) -> int:
    """The port of the Service that clients use."""
    return spec.network.service.port or USUAL_PORTS[scheme(spec)]


def url(service: TextGenerationService) -> str:
    """Where clients inside the cluster reach the API."""
    spec, meta = service.spec, service.metadata
    port = client_port(spec)
    suffix = "" if port == USUAL_PORTS[scheme(spec)] else f":{port}"
    return f"{scheme(spec)}://{meta.name}.{meta.namespace}.svc{suffix}"


def render(service: TextGenerationService) -> Manifest:
    """The Service that clients use, which spreads connections over the ready pods."""
    wanted = service.spec.network.service
    meta = object_meta(service.metadata, service.metadata.name)
    if wanted.annotations:
        meta["annotations"] = wanted.annotations
    return _service(meta, service, client_port(service.spec), {"type": wanted.type})


def render_headless(service: TextGenerationService) -> Manifest:
    """The headless Service of the StatefulSet; it names pods from their start, not only when they are ready."""
    meta = object_meta(service.metadata, pods_service_name(service.metadata))
    fields = {"type": "ClusterIP", "clusterIP": "None", "publishNotReadyAddresses": True}
    return _service(meta, service, SERVER_PORT, fields)


def _service(meta: dict[str, Any], service: TextGenerationService, port: int, fields: dict[str, Any]) -> Manifest:
    ports = [
        {
            "name": PORT_NAME,
            "port": port,
            "targetPort": PORT_NAME,
            "protocol": "TCP",
            "appProtocol": scheme(service.spec),
        }
    ]
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": meta,
        "spec": {**fields, "selector": selector(service.metadata), "ports": ports},
    }
