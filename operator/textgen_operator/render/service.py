"""The two Services: one address for clients, and one DNS name for each pod."""

from textgen_operator.kinds import SERVICES, Manifest
from textgen_operator.render.metadata import object_meta, pods_service_name, selector
from textgen_operator.resource import ObjectMeta

PORT_NAME = "http"
CLIENT_PORT = 80
SERVER_PORT = 8080


def render(service: ObjectMeta) -> Manifest:
    """The Service that clients use: port 80, spread over the ready pods."""
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": object_meta(service, service.name),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(service),
            "ports": [_port(CLIENT_PORT)],
        },
    }


def render_headless(service: ObjectMeta) -> Manifest:
    """The headless Service of the StatefulSet; it names pods from their start, not only when they are ready."""
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": object_meta(service, pods_service_name(service)),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(service),
            "ports": [_port(SERVER_PORT)],
        },
    }


def _port(number: int) -> dict[str, object]:
    return {"name": PORT_NAME, "port": number, "targetPort": PORT_NAME, "protocol": "TCP", "appProtocol": "http"}
