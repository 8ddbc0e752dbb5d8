"""What the chart's Grafana dashboards show: one of model servers, one of the operator. Written out by generate.py.

Pods are found by namespace and name, which every way to scrape them gives: a service's own, and KServe's of one that is
published.
tests/helm checks that each metric and label exists.
"""

from tools.grafana import Json, Panel, Variable, dashboard, stat

_NUMBER = "([0-9]+|predictor-.+)"
_PODS = f'{{namespace=~"$namespace",pod=~"$service-{_NUMBER}"}}'
_SERVICES = '{namespace=~"$namespace",name=~"$service"}'


def _pods(matcher: str) -> str:
    return _PODS[:-1] + f",{matcher}}}"


def _rate(metric: str, by: str = "", pods: str = _PODS) -> str:
    """Per second, of all pods together."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{pods}[$__rate_interval]))"


def _quantiles(metric: str, selector: str = _PODS) -> dict[str, str]:
    of = f"sum by (le) (rate({metric}_bucket{selector}[$__rate_interval]))"
    return {f"histogram_quantile({share}, {of})": f"p{share * 100:.0f}" for share in (0.5, 0.95, 0.99)}


def _mean(metric: str, by: str) -> str:
    return f"{_rate(f'{metric}_sum', by)} / {_rate(f'{metric}_count', by)}"


_NOW = [
    stat("Pods that answer", "none", f"sum(textgen_engine_up{_PODS})"),
    stat("Requests per second", "reqps", _rate("tgi_request_count")),
    stat("Generated tokens per second", "none", _rate("textgen_generated_tokens_total")),
    stat("Running requests", "none", f"sum(tgi_batch_current_size{_PODS})"),
    stat("Waiting requests", "none", f"sum(tgi_queue_size{_PODS})", "Above 0 for long: the pods are at their limit."),
    stat("KV cache in use", "percentunit", f"max(textgen_kv_cache_usage_ratio{_PODS})", "Of the fullest pod."),
]

_REQUESTS = [
    Panel(
        "Generations by outcome",
        "reqps",
        {_rate("tgi_request_success"): "success", _rate("tgi_request_failure", "err"): "{{err}}"},
        "dropped: the client left. overloaded: more than --max-concurrent-requests.",
        stacked=True,
    ),
    Panel(
        "HTTP replies by status", "reqps", {_rate("textgen_http_requests_total", "status"): "{{status}}"}, stacked=True
    ),
    Panel("Requests in flight", "none", {f"sum by (pod) (textgen_requests_in_flight{_PODS})": "{{pod}}"}),
    Panel("Prompt length, tokens", "none", _quantiles("tgi_request_input_length")),
    Panel("Generated per request, tokens", "none", _quantiles("tgi_request_generated_tokens")),
    Panel(
        "Tokens per second",
        "none",
        {_rate("textgen_prompt_tokens_total"): "prompt", _rate("textgen_generated_tokens_total"): "generated"},
    ),
]

_LATENCY = [
    Panel("Time to first token", "s", _quantiles("textgen_time_to_first_token_seconds")),
    Panel("Between two tokens", "s", _quantiles("textgen_inter_token_latency_seconds")),
    Panel("Whole request", "s", _quantiles("tgi_request_duration")),
    Panel("Waiting in the queue", "s", _quantiles("tgi_request_queue_duration")),
    Panel("Checking and tokenizing", "s", _quantiles("tgi_request_validation_duration")),
    Panel("Prefill and decode", "s", _quantiles("tgi_request_inference_duration")),
]

_ENGINE = [
    Panel("Running requests", "none", {f"sum by (pod) (tgi_batch_current_size{_PODS})": "{{pod}}"}),
    Panel("Waiting requests", "none", {f"sum by (pod) (tgi_queue_size{_PODS})": "{{pod}}"}),
    Panel("KV cache in use", "percentunit", {f"max by (pod) (textgen_kv_cache_usage_ratio{_PODS})": "{{pod}}"}),
    Panel("Mean step", "s", {_mean("tgi_batch_inference_duration", "method"): "{{method}}"}),
    Panel("Steps per second", "ops", {_rate("tgi_batch_inference_count", "method"): "{{method}}"}),
    Panel(
        "Requests set back",
        "ops",
        {_rate("textgen_preemptions_total", "pod"): "{{pod}}"},
        "The KV cache is too small for so many long requests; what is set back is computed again.",
    ),
    Panel(
        "Prompt tokens from the prefix cache",
        "percentunit",
        {f"{_rate('textgen_prefix_cached_tokens_total')} / {_rate('textgen_prompt_tokens_total')}": "share"},
    ),
    Panel(
        "Right guesses",
        "percentunit",
        {f"{_rate('textgen_right_guesses_total')} / {_rate('textgen_guessed_tokens_total')}": "share"},
        "With --speculate.",
    ),
    Panel("Failed steps", "ops", {_rate("tgi_batch_inference_failure", "method"): "{{method}}"}),
]

_NAMED = _pods('adapter!=""')
_ADAPTERS = [
    Panel("Requests", "reqps", {_rate("textgen_adapter_requests_total", "adapter", _NAMED): "{{adapter}}"}),
    Panel(
        "Generated tokens per second",
        "none",
        {_rate("textgen_adapter_generated_tokens_total", "adapter", _NAMED): "{{adapter}}"},
    ),
    Panel("Requests in flight", "none", {f"sum by (adapter) (textgen_requests_in_flight{_NAMED})": "{{adapter}}"}),
]

_OF_SERVICES = [
    stat("Services", "none", f"count(textgen_operator_service_ready{_SERVICES})"),
    stat("Ready", "none", f"sum(textgen_operator_service_ready{_SERVICES})"),
    Panel("Ready", "none", {f"textgen_operator_service_ready{_SERVICES}": "{{namespace}}/{{name}}"}, "1, or 0."),
    Panel(
        "Pods",
        "none",
        {f"textgen_operator_service_pods{_SERVICES}": "{{namespace}}/{{name}} {{state}}"},
        "Those that there should be, and those that answer.",
    ),
]

_WORK = [
    Panel(
        "Looks", "ops", {"sum by (result) (rate(textgen_operator_reconciles_total[$__rate_interval]))": "{{result}}"}
    ),
    Panel("Time of a look", "s", _quantiles("textgen_operator_reconcile_seconds", "")),
    Panel(
        "Writes",
        "ops",
        {
            _rate("textgen_operator_writes_total", "resource, method, code", ""): "{{method}} {{resource}} {{code}}",
        },
        "None when nothing changes.",
    ),
    Panel("Services due for a look", "none", {"max(textgen_operator_queue_depth)": "services"}),
    Panel("Delay of the most belated look", "s", {"max(textgen_operator_seconds_behind)": "delay"}),
    Panel("From a service's creation to its objects", "s", _quantiles("textgen_operator_seconds_to_objects", "")),
]


def dashboards() -> dict[str, Json]:
    """File name -> dashboard."""
    servers = [
        Variable("namespace", "label_values(textgen_build_info, namespace)"),
        Variable(
            "service",
            'label_values(textgen_build_info{namespace=~"$namespace"}, pod)',
            f"/^(.*?)-{_NUMBER.replace('(', '(?:')}$/",
        ),
    ]
    services = [
        Variable("namespace", "label_values(textgen_operator_service_ready, namespace)"),
        Variable("service", 'label_values(textgen_operator_service_ready{namespace=~"$namespace"}, name)'),
    ]
    rows = {"Now": _NOW, "Requests": _REQUESTS, "Latency": _LATENCY, "Engine": _ENGINE, "Adapters": _ADAPTERS}
    return {
        "server.json": dashboard("textgen-server", "textgen / Model servers", servers, rows),
        "operator.json": dashboard(
            "textgen-operator", "textgen / Operator", services, {"Services": _OF_SERVICES, "Work": _WORK}
        ),
    }
