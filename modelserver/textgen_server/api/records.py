"""What is known of one request while it runs, and what is told of it at its end: a line in the log, and a span.

`RequestLog` opens and closes records, for HTTP in middleware/request_log.py. In between, `RecordingObserver` writes
down what the request generates; it finds the record by a context variable, which tasks of the request inherit.
"""

import logging
import re
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from textgen_server.telemetry import log_fields
from textgen_server.text.generation import Generation, Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from textgen_server.api.tracing import Tracing

_log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
# Headers of a request that `RequestLog.begin` reads: its id, and W3C's trace context.
CARRIED = frozenset((REQUEST_ID.encode(), b"traceparent", b"tracestate"))
_LONGEST_PATH = 200  # characters of it in the log
_SANE_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
CLIENT_LEFT = 499  # for requests without a reply; the code is nginx's


@dataclass(slots=True)
class RequestRecord:
    """One request.

    Attributes:
        id: the client's own, else a new one.
        method, path, route: as in POST, "/v2/models/m/infer", "/v2/models/{model}/infer"; no route: "".
        quiet: of no interest, as probes are.
        started: `time.perf_counter` at its arrival.
        status: of the reply; 0 before there is one.
        failure: "", or why it failed: a value of the label `err` of tgi_request_failure, or "internal".
        generations: those that were finished.
        span: of its trace, where it is traced.
    """

    id: str
    method: str
    path: str
    quiet: bool
    started: float
    route: str = ""
    status: int = 0
    failure: str = ""
    generations: list[Generation] = field(default_factory=list)
    span: "Span | None" = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompts; several samples of a prompt count it once."""
        return sum(len(prompt.ids) for prompt in {id(each.prompt): each.prompt for each in self.generations}.values())

    @property
    def generated_tokens(self) -> int:
        """Tokens of all its generations."""
        return sum(each.generated_tokens for each in self.generations)


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


class RequestLog:
    """Opens and closes records.

    Args:
        model: the served name.
        tracing: where spans go, if anywhere.
    """

    def __init__(self, model: str, tracing: "Tracing | None") -> None:
        self._model = model
        self._tracing = tracing

    def begin(self, method: str, path: str, carrier: Mapping[str, str], quiet: bool = False) -> RequestRecord:
        """A record of the request that the running task works on.

        Args:
            carrier: its headers, in lower case; those of `CARRIED` are enough.
            quiet: neither trace it nor log it above debug.
        """
        record = RequestRecord(_id_of(carrier), method, path, quiet, perf_counter())
        fields = {"request_id": record.id}
        if self._tracing and not quiet:
            record.span = self._tracing.begin(method, carrier)
            fields |= self._tracing.ids(record.span)
        # Never set back: the server may still log of the request, and each has a context of its own.
        _current.set(record)
        log_fields.set(fields)
        return record

    def end(self, record: RequestRecord) -> None:
        """Tell of it."""
        if self._tracing and record.span:
            self._tracing.end(record.span, record, self._model)
        level = logging.DEBUG if record.quiet else logging.INFO
        if _log.isEnabledFor(level):
            facts = self._facts(record)
            _log.log(level, _sentence(record, facts), extra={"fields": facts})

    def _facts(self, record: RequestRecord) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "method": record.method,
            "route": record.route or _in_one_line(record.path),
            "status": record.status or CLIENT_LEFT,
            "total_seconds": round(perf_counter() - record.started, 6),
        }
        if record.failure:
            facts["failure"] = record.failure
        if not record.generations:
            return facts
        times = [generation.times for generation in record.generations]
        return facts | {
            "model": record.generations[0].request.adapter or self._model,
            "prompt_tokens": record.prompt_tokens,
            "generated_tokens": record.generated_tokens,
            "finish_reason": ",".join(sorted({each.finish_reason for each in record.generations})),
            "validation_seconds": round(max(each.validation for each in times), 6),
            "queue_seconds": round(max(each.queue_seconds for each in times), 6),
            "inference_seconds": round(max(each.inference for each in times), 6),
            "first_token_seconds": round(min(each.first_token - each.received for each in times), 6),
        }


class RecordingObserver:
    """An `Observer` that passes on what it hears, and notes in the request's record how it ended."""

    def __init__(self, behind: Observer) -> None:
        self._behind = behind
        # What is told for every token takes no detour.
        self.received = behind.received
        self.admitted = behind.admitted
        self.left = behind.left
        self.first_token = behind.first_token
        self.next_token = behind.next_token

    def finished(self, generation: Generation) -> None:
        self._behind.finished(generation)
        if record := _current.get():
            record.generations.append(generation)

    def failed(self, label: str) -> None:
        self._behind.failed(label)
        if record := _current.get():
            record.failure = label


def _id_of(carrier: Mapping[str, str]) -> str:
    """The client's id if it can stand in headers and logs as it is, else a new one."""
    asked = carrier.get(REQUEST_ID, "")
    return asked if _SANE_ID.fullmatch(asked) else uuid.uuid4().hex


def _in_one_line(path: str) -> str:
    """A path that no route has, and that the client may have made up to look like lines of a log."""
    shown = path[:_LONGEST_PATH]
    return shown if shown.isprintable() else ascii(shown)


def _sentence(record: RequestRecord, facts: Mapping[str, Any]) -> str:
    """As in: POST /generate 200 in 0.532 s: 12 prompt tokens, 20 generated, queue 0.001 s, first token 0.050 s."""
    text = f"{record.method} {facts['route']} {facts['status']} in {facts['total_seconds']:.3f} s"
    if record.generations:
        text += (
            f": {facts['prompt_tokens']} prompt tokens, {facts['generated_tokens']} generated,"
            f" queue {facts['queue_seconds']:.3f} s, first token {facts['first_token_seconds']:.3f} s"
        )
    return f"{text}, failed: {record.failure}" if record.failure else text
