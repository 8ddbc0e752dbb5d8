"""The PodMonitor, by which the Prometheus operator finds the metrics of every pod."""

from collections.abc import Set

from textgen_operator.kinds import POD_MONITORS, Kind, Manifest
from textgen_operator.render.metadata import labels, object_meta, selector
from textgen_operator.render.service import PORT_NAME, scheme
from textgen_operator.resource import TextGenerationService

METRICS_PATH = "/metrics"


def render(service: TextGenerationService, served: Set[Kind]) -> list[Manifest]:
    """One, if asked for, or if nothing is said and the cluster serves the kind."""
    metrics = service.spec.metrics
    if metrics.monitor == "Disabled" or (metrics.monitor == "Auto" and POD_MONITORS not in served):
        return []
    endpoint: Manifest = {
        "port": PORT_NAME,
        "path": METRICS_PATH,
        "scheme": scheme(service.spec),
        "interval": metrics.interval,
    }
    if service.spec.tls:
        # Prometheus comes by the pod's address, which is in no certificate.
        endpoint["tlsConfig"] = {"insecureSkipVerify": True}
    meta = object_meta(service.metadata, service.metadata.name)
    return [
        {
            "apiVersion": POD_MONITORS.api_version,
            "kind": POD_MONITORS.name,
            # By labels each Prometheus chooses what it reads; those by which we find our objects win.
            "metadata": meta | {"labels": metrics.labels | labels(service.metadata)},
            "spec": {
                "selector": {"matchLabels": selector(service.metadata)},
                "podMetricsEndpoints": [endpoint],
            },
        }
    ]
