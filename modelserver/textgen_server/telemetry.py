"""What the server says of itself: its version, names of metrics, and the format of logs."""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from importlib.metadata import version
from typing import Final

from textgen_server.errors import StartupError

VERSION: Final = version("textgen")

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"

log_fields: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default={})  # noqa: B039 - nobody writes into it
"""What every line that is logged in this context says beside its message: `request_id`, and `trace_id` when traced."""

# Request metrics: TGI's names and types. Counters are exposed without prometheus_client's `_total` suffix.
REQUEST_COUNT: Final = "tgi_request_count"
REQUEST_SUCCESS: Final = "tgi_request_success"
REQUEST_FAILURE: Final = "tgi_request_failure"
REQUEST_DURATION: Final = "tgi_request_duration"
REQUEST_VALIDATION_DURATION: Final = "tgi_request_validation_duration"
REQUEST_QUEUE_DURATION: Final = "tgi_request_queue_duration"
REQUEST_INFERENCE_DURATION: Final = "tgi_request_inference_duration"
REQUEST_MEAN_TIME_PER_TOKEN: Final = "tgi_request_mean_time_per_token_duration"
REQUEST_GENERATED_TOKENS: Final = "tgi_request_generated_tokens"
REQUEST_INPUT_LENGTH: Final = "tgi_request_input_length"
REQUEST_MAX_NEW_TOKENS: Final = "tgi_request_max_new_tokens"
REQUEST_SKIPPED_TOKENS: Final = "tgi_request_skipped_tokens"
QUEUE_SIZE: Final = "tgi_queue_size"
BATCH_CURRENT_SIZE: Final = "tgi_batch_current_size"
BATCH_CURRENT_MAX_TOKENS: Final = "tgi_batch_current_max_tokens"
BATCH_MAX_TOTAL_TOKENS: Final = "tgi_batch_max_total_tokens"
BATCH_NEXT_SIZE: Final = "tgi_batch_next_size"
BATCH_INFERENCE_COUNT: Final = "tgi_batch_inference_count"
BATCH_INFERENCE_SUCCESS: Final = "tgi_batch_inference_success"
BATCH_INFERENCE_FAILURE: Final = "tgi_batch_inference_failure"
BATCH_INFERENCE_DURATION: Final = "tgi_batch_inference_duration"
BATCH_FORWARD_DURATION: Final = "tgi_batch_forward_duration"
BATCH_DECODE_DURATION: Final = "tgi_batch_decode_duration"
BATCH_FILTER_DURATION: Final = "tgi_batch_filter_duration"
BATCH_CONCAT: Final = "tgi_batch_concat"
BATCH_CONCAT_DURATION: Final = "tgi_batch_concat_duration"

# What TGI's users miss.
TIME_TO_FIRST_TOKEN: Final = "textgen_time_to_first_token_seconds"
INTER_TOKEN_LATENCY: Final = "textgen_inter_token_latency_seconds"
KV_CACHE_USAGE: Final = "textgen_kv_cache_usage_ratio"
PROMPT_TOKENS: Final = "textgen_prompt_tokens_total"
PREFIX_CACHED_TOKENS: Final = "textgen_prefix_cached_tokens_total"
GENERATED_TOKENS: Final = "textgen_generated_tokens_total"
PREEMPTIONS: Final = "textgen_preemptions_total"
GUESSED_TOKENS: Final = "textgen_guessed_tokens_total"
RIGHT_GUESSES: Final = "textgen_right_guesses_total"
REQUESTS_IN_FLIGHT: Final = "textgen_requests_in_flight"
ADAPTER_REQUESTS: Final = "textgen_adapter_requests_total"
ADAPTER_PROMPT_TOKENS: Final = "textgen_adapter_prompt_tokens_total"
ADAPTER_GENERATED_TOKENS: Final = "textgen_adapter_generated_tokens_total"
HTTP_REQUESTS: Final = "textgen_http_requests_total"
ENGINE_UP: Final = "textgen_engine_up"
BUILD_INFO: Final = "textgen_build_info"

# Upper bounds of histogram buckets. TGI's, in seconds, to about 145.
DURATION_BUCKETS: Final = tuple(0.00015 * 1.5**power for power in range(35))
SKIPPED_TOKENS_BUCKETS: Final = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
BATCH_SIZE_BUCKETS: Final = tuple(float(2**power) for power in range(11))


class TextFormatter(logging.Formatter):
    """Lines for people; those about a request end with its id."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        request = log_fields.get().get("request_id")
        return f"{line} [{request}]" if request else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: with `extra={"fields": {...}}`, these too, and those of the context."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
            "target": record.name,
            **getattr(record, "fields", {}),
            **log_fields.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str, json_output: bool) -> None:
    """Send the root logger's lines to standard error in the project's format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json_output else TextFormatter(LOG_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("uvicorn", "httpx", "filelock"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def report_failure(error: StartupError) -> None:
    """Print why the server cannot start: `error: ...`, or with --json-output an object with `error_type`."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        logging.getLogger(__name__).error("%s", error.message, extra={"fields": {"error_type": error.error_type}})
    else:
        print(f"error: {error.message}", file=sys.stderr)
