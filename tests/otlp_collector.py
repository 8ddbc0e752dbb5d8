"""An OpenTelemetry collector for tests: takes spans over OTLP on a free port, and keeps them."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What has arrived.

    Attributes:
        endpoint: for --otlp-endpoint.
        resources: attributes of each sender.
        spans: in the order of their arrival.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock:
            for of_resource in request.resource_spans:
                self.resources.append(attributes(of_resource.resource))
                for of_scope in of_resource.scope_spans:
                    self.spans.extend(of_scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, count: int, seconds: float = 60.0) -> list[Span]:
        """At least `count` spans. TimeoutError when they do not come."""
        deadline = time.monotonic() + seconds
        while len(self.spans) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.spans)} spans of {count} within {seconds} s")
            time.sleep(0.02)
        return list(self.spans)


def attributes(holder: Any) -> dict[str, Any]:
    """Attributes of a span, an event or a resource, as plain values."""
    return {pair.key: _plain(pair.value) for pair in holder.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A running collector."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
