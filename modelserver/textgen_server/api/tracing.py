"""Traces of requests, for an OpenTelemetry collector. Imported only with --otlp-endpoint: its libraries are an extra.

A request is one span; below it, for each generation, lie `validation`, `queue` and `inference`, with an event at the
first token. They are written when the request ends, so a token costs nothing. Names of attributes are those of
OpenTelemetry's conventions for HTTP and for generative AI, where there are any.
"""

from collections.abc import Mapping
from threading import Timer
from time import perf_counter, time_ns

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from textgen_server.api.records import RequestRecord
from textgen_server.text.generation import Generation

CLOSE_SECONDS = 3.0

# Failures whose requests were right; other failures are the clients'.
_OURS = ("generation", "incomplete", "timeout", "internal")


class Tracing:
    """Sends spans to `endpoint`, in the background.

    Whether a trace is sampled follows the client's `traceparent`; without one, OTEL_TRACES_SAMPLER says, and by default
    all are.

    Args:
        endpoint: OTLP over gRPC, as in http://collector:4317; https:// for TLS.
        service_name, version: of this server.
    """

    def __init__(self, endpoint: str, service_name: str, version: str) -> None:
        address = endpoint if "://" in endpoint else f"http://{endpoint}"
        resource = Resource.create({SERVICE_NAME: service_name, SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter(endpoint=address)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("textgen", version)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, carrier: Mapping[str, str]) -> Span:
        """The span of a request, which may continue the trace of its headers."""
        return self._tracer.start_span(name, self._propagator.extract(carrier), SpanKind.SERVER)

    def ids(self, span: Span) -> dict[str, str]:
        """What lines in the log say of a span."""
        context = span.get_span_context()
        return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}

    def end(self, span: Span, record: RequestRecord, model: str) -> None:
        """Write down what became of the request.

        Args:
            model: name of the model, for requests that ask for no adapter.
        """
        if span.is_recording():
            span.update_name(f"{record.method} {record.route}" if record.route else record.method)
            span.set_attributes(_request_attributes(record))
            if record.failure in _OURS or record.status >= 500:
                span.set_attribute("error.type", record.failure or str(record.status))
                span.set_status(Status(StatusCode.ERROR))
            if record.generations:
                span.set_attributes(_generation_attributes(record, model))
            for generation in record.generations:
                self._write_phases(span, generation)
        span.end()

    def close(self) -> None:
        """Send what is left; blocks while it does, for a few seconds at most."""
        giving_up = Timer(CLOSE_SECONDS, self._exporter.shutdown)
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()

    def _write_phases(self, span: Span, generation: Generation) -> None:
        times = generation.times
        begun = times.validated + times.queue_seconds
        parent = set_span_in_context(span)
        epoch = time_ns() - int(perf_counter() * 1e9)

        def at(seconds: float) -> int:
            return epoch + int(seconds * 1e9)

        phases = (
            ("validation", times.received, times.validated),
            ("queue", times.validated, begun),
            ("inference", begun, times.last_token),
        )
        for name, start, end in phases:
            phase = self._tracer.start_span(name, parent, start_time=at(start))
            if name == "inference":
                phase.add_event("first_token", timestamp=at(times.first_token))
            phase.end(at(end))


def _request_attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "http.request.method": record.method,
        "url.path": record.path,
        "textgen.request_id": record.id,
    }
    if record.route:
        attributes["http.route"] = record.route
    if record.status:
        attributes["http.response.status_code"] = record.status
    return attributes


def _generation_attributes(record: RequestRecord, model: str) -> dict[str, AttributeValue]:
    first = record.generations[0]
    request = first.request
    times = [generation.times for generation in record.generations]
    asked: dict[str, AttributeValue | None] = {
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.top_k": request.top_k,
        "gen_ai.request.seed": first.seed,
        "gen_ai.request.stop_sequences": request.stop or None,
    }
    name = request.adapter or model
    known: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat" if "chat" in record.route else "text_completion",
        "gen_ai.provider.name": "textgen",
        "gen_ai.request.model": name,
        "gen_ai.response.model": name,
        "gen_ai.request.max_tokens": first.engine_request.max_new_tokens,
        "gen_ai.request.choice.count": len(record.generations),
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": sum(each.start.cached_tokens for each in record.generations),
        "gen_ai.response.finish_reasons": [each.finish_reason for each in record.generations],
        "gen_ai.response.time_to_first_chunk": min(each.first_token - each.received for each in times),
    }
    return known | {name: value for name, value in asked.items() if value is not None}
