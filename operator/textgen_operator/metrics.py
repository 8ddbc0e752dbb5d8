"""What the operator tells Prometheus of itself: GET /metrics on the liveness port. docs/operations.md lists it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from textgen_operator.kinds import Manifest

REGISTRY = CollectorRegistry()

RECONCILES = Counter(
    "textgen_operator_reconciles", "Looks at services, by result: done, or failed and tried again", ["result"],
    registry=REGISTRY,
)  # fmt: skip
RECONCILE_SECONDS = Histogram("textgen_operator_reconcile_seconds", "Time that one look takes", registry=REGISTRY)
WRITES = Counter(
    "textgen_operator_writes",
    "Writes to the API server, by resource, method and status; none at rest",
    ["resource", "method", "code"],
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("textgen_operator_queue_depth", "Services that are due for a look", registry=REGISTRY)
SECONDS_BEHIND = Gauge("textgen_operator_seconds_behind", "Delay of the most belated look", registry=REGISTRY)
SECONDS_TO_OBJECTS = Histogram(
    "textgen_operator_seconds_to_objects",
    "From the creation of a service until all its objects were made; the API server counts whole seconds",
    buckets=(1, 2, 3, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
_OF_SERVICE = ["namespace", "name"]
SERVICE_READY = Gauge("textgen_operator_service_ready", "1 when the service is Ready", _OF_SERVICE, registry=REGISTRY)
SERVICE_PODS = Gauge(
    "textgen_operator_service_pods", "Pods of a service, by state: wanted or ready", [*_OF_SERVICE, "state"],
    registry=REGISTRY,
)  # fmt: skip


def watch_queue(depth: Callable[[], float], seconds_behind: Callable[[], float]) -> None:
    """Have the queue asked at each scrape."""
    QUEUE_DEPTH.set_function(depth)
    SECONDS_BEHIND.set_function(seconds_behind)


@contextlib.contextmanager
def timed_look() -> Iterator[None]:
    """Counts and times what is inside."""
    began = time.monotonic()
    try:
        yield
    except Exception:
        RECONCILES.labels("failed").inc()
        raise
    RECONCILES.labels("done").inc()
    RECONCILE_SECONDS.observe(time.monotonic() - began)


def count_write(method: str, path: str, code: int) -> None:
    """Count a write, successful or not.

    Args:
        method: of HTTP.
        path: as /apis/GROUP/VERSION/namespaces/NS/RESOURCE/NAME[/SUBRESOURCE].
        code: HTTP status of the answer.
    """
    _, _, rest = path.partition("/namespaces/")
    resource, _, below = rest.partition("/")[2].partition("/")
    subresource = below.partition("/")[2]
    WRITES.labels(f"{resource}/{subresource}" if subresource else resource, method, str(code)).inc()


def note_service(service: Manifest, status: Manifest, wanted: int, now: datetime) -> None:
    """What is known of a service after a look.

    Args:
        service: the custom resource, as it was before the look.
        status: what the look found.
        wanted: pods that it should have.
        now: with a time zone.
    """
    meta = service["metadata"]
    key = meta["namespace"], meta["name"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    SERVICE_READY.labels(*key).set(conditions["Ready"] == "True")
    SERVICE_PODS.labels(*key, "wanted").set(wanted)
    SERVICE_PODS.labels(*key, "ready").set(status["readyReplicas"])
    if not service.get("status") and "creationTimestamp" in meta:
        SECONDS_TO_OBJECTS.observe((now - datetime.fromisoformat(meta["creationTimestamp"])).total_seconds())


def forget_service(namespace: str, name: str) -> None:
    """The service is gone."""
    with contextlib.suppress(KeyError):
        SERVICE_READY.remove(namespace, name)
    for state in ("wanted", "ready"):
        with contextlib.suppress(KeyError):
            SERVICE_PODS.remove(namespace, name, state)


def forget_services() -> None:
    """Another operator looks after them now."""
    SERVICE_READY.clear()
    SERVICE_PODS.clear()
